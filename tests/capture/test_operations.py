"""Counted operations against torch's own counter around the functions that really run."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from influence_assets.capture.batch_size import sequence_bytes
from influence_assets.capture.correction import CorrectionTotals, eigenvalue_corrections
from influence_assets.capture.covariance import CovarianceTotals, covariances
from influence_assets.capture.gauss_newton import gauss_newton_products
from influence_assets.capture.gradients import query_gradients, query_outer_products
from influence_assets.capture.losses import LabelSampler, plain_head
from influence_assets.capture.low_rank import covariance_sketches, low_rank_corrections
from influence_assets.capture.model_shape import model_shape
from influence_assets.capture.one_pass import measure
from influence_assets.capture.operations import LayerShape, contraction_orders
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, scores
from influence_assets.capture.sketches import SketchRows
from influence_assets.maths import range_finder
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.ekfac import LayerCurvature
from influence_assets.maths.low_rank import LowRankCurvature
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.methods.ekfac import precondition
from influence_assets.models.layers.selection import select_modules
from influence_assets.models.loading import fuse_activations
from tests import cases
from tests.counting import LEFT_OUT_BY_TORCH
from tests.tiers import slow_but

SEQUENCES = 6
QUERIES = 3
TOLERANCE = 0.005
FAST = ("gpt2", "mlp"), ("llama", "linear")


class Counted:
    """A tiny model, what torch counts of its measurements, and its shape."""

    def __init__(self, architecture, modules, form=None):
        self.model = cases.ARCHITECTURES[architecture]()
        fuse_activations(self.model)  # as a loaded model's are
        self.runner = Runner(self.model, select_modules(self.model, modules), 2)
        self.sequences = cases.sequences(SEQUENCES, ragged=False)
        form = form or CurvatureForm()
        self.shape = model_shape(self.model.config, "float64", modules, tokens=cases.CONTEXT, form=form)

    def of(self, function, *given):
        _ = self.runner.head  # trying it out is no part of a measurement
        with FlopCounterMode(display=False, custom_mapping=LEFT_OUT_BY_TORCH) as counter:
            result = function(*given)
        return counter.get_total_flops(), result


@pytest.fixture(
    params=slow_but(*FAST, of=[(a, m) for a in cases.ARCHITECTURES for m in ("mlp", "linear")]), ids="-".join
)
def counted(request):
    return Counted(*request.param)


def test_covariances(counted):
    real, _ = counted.of(covariances, counted.runner, counted.sequences, LabelSampler(0))
    shape = counted.shape
    assert real == pytest.approx(SEQUENCES * (shape.passes() + shape.covariances()), rel=TOLERANCE)


def curvature(counted):
    found = covariances(counted.runner, counted.sequences, None)
    bases = {m.name: found[m.name].basis(m.output_width) for m in counted.runner.modules}
    Λ = eigenvalue_corrections(counted.runner, counted.sequences, bases, None)
    return {name: LayerCurvature(basis, Λ[name].mean(), 0.1) for name, basis in bases.items()}


def test_corrected_eigenvalues(counted):
    bases = {name: layer.basis for name, layer in curvature(counted).items()}
    real, _ = counted.of(eigenvalue_corrections, counted.runner, counted.sequences, bases, LabelSampler(0))
    shape = counted.shape
    assert real == pytest.approx(SEQUENCES * (shape.passes() + shape.rotated_gradients()), rel=TOLERANCE)


def test_queries_and_scores(counted):
    layers, shape = curvature(counted), counted.shape
    bases = {name: layer.basis for name, layer in layers.items()}
    questions = counted.sequences.take(np.arange(QUERIES))
    real, found = counted.of(query_gradients, counted.runner, questions, bases)
    assert real == pytest.approx(QUERIES * (shape.passes() + shape.rotated_gradients()), rel=TOLERANCE)
    real, products = counted.of(query_outer_products, counted.runner, questions, bases)
    rows = sum(len(V) * (layer.d_out**2 + layer.d_in**2) for layer in shape.layers for V in products.layers[layer.name])
    assert real == pytest.approx(QUERIES * shape.passes() + 2 * rows, rel=TOLERANCE)
    real, _ = counted.of(lambda: [V.sum() for of_layer in products.layers.values() for V in of_layer])
    of_rows = sum(layer.outer_products(len(V)) for layer in shape.layers for V in products.layers[layer.name])
    assert 2 * rows + real == pytest.approx(of_rows, rel=TOLERANCE)
    # The gradients of the first token's query and key are zero, but for rounding, which not every processor does alike.
    assert {len(V) for of_layer in products.layers.values() for V in of_layer} <= {cases.CONTEXT - 2, cases.CONTEXT - 1}
    real, P = counted.of(precondition, found.layers, layers)
    assert real == 0, "in the eigenbases a division"
    for methods in ({"ekfac": P}, {"ekfac": P, "other": P}):
        real, _ = counted.of(scores, counted.runner, counted.sequences, methods, 1, bases)
        expected = SEQUENCES * shape.passes() + shape.scores(len(methods) * QUERIES, SEQUENCES)
        assert real == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("labels", ["sampled", "own"])
def test_everything_of_a_shard_in_one_pass(counted, labels):
    layers, shape = curvature(counted), counted.shape
    bases = {name: layer.basis for name, layer in layers.items()}
    few = counted.sequences.take(np.arange(QUERIES))
    P = precondition(query_gradients(counted.runner, few, bases).layers, layers)
    kept = strongest_coordinates(layers, 16)

    def everything():
        rows = SketchRows(counted.runner, layers, kept, P, lambda _batch: None)
        participants = [CovarianceTotals(), CorrectionTotals(), rows, ScoreTotals({"ekfac": P}, SEQUENCES, 1, "cpu")]
        sampler = LabelSampler(0) if labels == "sampled" else None
        measure(counted.runner, counted.sequences, participants, bases, sampler)

    real, _ = counted.of(everything)
    kinds = 2 if labels == "sampled" else 1
    each = shape.passes(kinds) + shape.covariances() + kinds * shape.rotated_gradients()
    expected = SEQUENCES * (each + shape.contractions(QUERIES) + shape.contractions(QUERIES))  # of sketches, of scores
    assert real == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("vectors", [1, 3])
def test_products_of_the_gauss_newton_hessian(counted, vectors):
    """Each vector's own passes, the forward pass that they share, and the rotation of the vectors, once a product.

    Of these short sequences, attention is a large part, which forward-mode differentiation does by other products.
    """
    bases, shape = {name: layer.basis for name, layer in curvature(counted).items()}, counted.shape
    V = {m.name: torch.ones(vectors, m.output_width, m.input_width).double() for m in counted.runner.modules}
    real, _ = counted.of(gauss_newton_products, counted.runner, [counted.sequences], V, bases)
    shared = shape.forward + shape.head * shape.tokens / (shape.tokens - 1)
    rotated = sum(2 * d_out * d_in * (d_out + d_in) for d_out, d_in in ((m.d_out, m.d_in) for m in shape.layers))
    expected = SEQUENCES * (shared + vectors * shape.gauss_newton()) + vectors * rotated
    assert real == pytest.approx(expected, rel=0.05)


def test_the_memory_of_a_sequence_is_the_one_that_is_measured(counted):
    """By the same rules, but on a model that has no memory."""
    head = plain_head(counted.model, counted.runner.modules)
    real = sequence_bytes(counted.model, head, counted.runner.modules, cases.CONTEXT)
    assert counted.shape.sequence_bytes == pytest.approx(real, rel=0.2)


@pytest.mark.parametrize(
    "counted", [("gpt2", "mlp+embedding"), ("llama", "mlp+embedding")], indirect=True, ids="-".join
)
def test_an_embedding(counted):
    """Tied with its head, and each by itself: the same counts, of rows of words too."""
    layers, shape = curvature(counted), counted.shape
    assert {layer.outputs for layer in shape.layers} > {"factor"}
    bases = {name: layer.basis for name, layer in layers.items()}
    # What is looked up has rows of the words of its batch alone, here fewer than there are; a head by itself has fewer
    # vectors to rotate.
    about = 0.03
    real, _ = counted.of(covariances, counted.runner, counted.sequences, LabelSampler(0))
    assert real == pytest.approx(SEQUENCES * (shape.passes() + shape.covariances()), rel=about)
    real, _ = counted.of(eigenvalue_corrections, counted.runner, counted.sequences, bases, LabelSampler(0))
    assert real == pytest.approx(SEQUENCES * (shape.passes() + shape.rotated_gradients()), rel=about)
    for queries in (1, 30):
        P = {m.name: torch.zeros(queries, m.output_width, m.input_width).double() for m in counted.runner.modules}
        real, _ = counted.of(scores, counted.runner, counted.sequences, {"ekfac": P}, 1, bases)
        expected = SEQUENCES * shape.passes() + shape.scores(queries, SEQUENCES)
        assert real == pytest.approx(expected, rel=about)


def test_a_gpt2_against_the_figures_of_its_architecture():
    """12·width² numbers a block, the head, and attention's two products: 2 operations a number and token."""
    width, layers, tokens, vocabulary = 8, 2, cases.CONTEXT, cases.VOCABULARY
    shape = model_shape(cases.gpt2().config, "float32", "mlp", tokens=tokens)
    attention = 4 * tokens**2 * width
    assert shape.forward == layers * (2 * tokens * 12 * width**2 + attention)
    # Below the first attributed layer nothing goes back: one block whole, and one matrix of the other's MLP.
    assert shape.backward == 2 * tokens * (12 + 4) * width**2 + 5 * attention // 2
    assert shape.head == 2 * (tokens - 1) * width * vocabulary
    assert [(layer.d_out, layer.d_in) for layer in shape.layers] == [(4 * width, width + 1), (width, 4 * width + 1)] * 2
    assert shape.parameters == sum(p.numel() for p in cases.gpt2().parameters())
    assert shape.gradient_numbers == layers * (4 * width * (width + 1) + width * (4 * width + 1))


@pytest.mark.parametrize(
    ("sequences", "sides"),
    [
        (4, (True, True)),  # Q_S on 4·20 rows rather than 6·20, Q_A on 4·50 rather than 6·300
        (20, (False, True)),  # Q_S on 6·20 rather than 20·20, Q_A on 20·50
        (40, (False, False)),  # Q_A on 6·300 rather than 40·50
    ],
)
def test_each_side_is_rotated_where_it_has_fewer_rows(sequences, sides):
    """50 tokens a sequence, 6 queries."""
    assert LayerShape("wide", d_out=300, d_in=20).scored_sides(50, 6, sequences) == sides


def test_factors_in_blocks():
    counted = Counted("gpt2", "linear", CurvatureForm(blocks=2))
    in_blocks = partial(covariances, blocks=2)
    real, _ = counted.of(in_blocks, counted.runner, counted.sequences, LabelSampler(0))
    shape = counted.shape
    assert real == pytest.approx(SEQUENCES * (shape.passes() + shape.covariances()), rel=TOLERANCE)


@pytest.mark.parametrize("rank", [1, 4, 40])
def test_curvature_of_low_rank(rank, monkeypatch):
    """Of layers 9 to 33 wide: sketched on both sides, sketched on one, and whole."""
    monkeypatch.setattr(range_finder, "OVERSAMPLING", (1, 2))
    form = CurvatureForm(rank=rank)
    counted = Counted("gpt2", "mlp", form)
    shape, sampler = counted.shape, LabelSampler(0)
    real, sketches = counted.of(covariance_sketches, counted.runner, counted.sequences, sampler, form)
    assert real == pytest.approx(SEQUENCES * (shape.passes() + shape.covariances()), rel=TOLERANCE)
    bases = {name: layer.basis(form) for name, layer in sketches.items()}
    real, found = counted.of(low_rank_corrections, counted.runner, counted.sequences, bases, sampler)
    assert real == pytest.approx(SEQUENCES * (shape.passes() + shape.statistics()), rel=0.02)
    layers = {n: LowRankCurvature.fitted(bases[n], each.squared_norms, 0.1) for n, each in found.items()}
    kept = strongest_coordinates(layers, 16)
    few = counted.sequences.take(np.arange(QUERIES))
    V = query_gradients(counted.runner, few, bases).layers

    def sketched():
        rows = SketchRows(counted.runner, layers, kept, V, lambda _batch: None)
        measure(counted.runner, counted.sequences, [rows], bases, None)

    real, _ = counted.of(sketched)
    each = shape.passes() + shape.sketched_gradients() + shape.contractions(QUERIES)
    assert real == pytest.approx(SEQUENCES * each, rel=0.02)
    real, _ = counted.of(scores, counted.runner, counted.sequences, {"ekfac": V}, 1, bases)
    assert real == pytest.approx(SEQUENCES * shape.passes() + shape.scores(QUERIES, SEQUENCES), rel=TOLERANCE)


def test_the_orders_are_told_in_words():
    """GPT-2 of width 8: layers of 32 × 9 and 8 × 33."""
    few = model_shape(cases.gpt2().config, "float32", "mlp", tokens=4)
    assert set(contraction_orders(few, 9, 1000).values()) == {("tokens", "queries")}
    assert set(contraction_orders(few, 1000, 9).values()) == {("tokens", "sequences")}
    many = contraction_orders(model_shape(cases.gpt2().config, "float32", "mlp", tokens=12), 1, 1)
    assert many[32, 9][0] == "gradients by Q_S, tokens by Q_A"
    assert many[8, 33][0] == "tokens by Q_S, gradients by Q_A"
