"""The matrix of a model's words, looked up and as the head, against autograd one sequence at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from influence_assets.capture.batches import Parts
from influence_assets.capture.correction import CorrectionTotals, eigenvalue_corrections
from influence_assets.capture.covariance import CovarianceTotals, covariances
from influence_assets.capture.details import Pairs, score_details
from influence_assets.capture.gauss_newton import gauss_newton_products
from influence_assets.capture.gradients import query_gradients, query_outer_products
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.rehearsal import rehearse
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, score_all, scores
from influence_assets.capture.sketches import SketchRows, query_sketches, sketches
from influence_assets.maths import row_terms
from influence_assets.maths.ekfac import LayerCurvature, damping
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import ekfac as dense
from tests.oracles import gradients as oracle
from tests.oracles.gauss_newton import dense_gauss_newton

N = 40
EVERY = cases.ARCHITECTURES | cases.SCALED_LOGITS
NAMES = {
    "gpt2": ["transformer.wte"],
    "llama": ["model.embed_tokens", "lm_head"],
    "llama_tied": ["model.embed_tokens"],
    "neox": ["gpt_neox.embed_in", "lm_head"],
    "gemma2": ["model.embed_tokens"],
    "cohere": ["model.embed_tokens"],
    "granite": ["model.embed_tokens", "lm_head"],
}
KINDS = ("gpt2", "llama", "gemma2")
"""One layer, two layers, and one whose logits autograd has to compute."""


@pytest.fixture(autouse=True, params=["at once", "a few rows at a time"])
def rows_at_once(request, monkeypatch):
    """Of 17 words, 3 or fewer rows of gradients are made at a time."""
    if request.param != "at once":
        monkeypatch.setattr(row_terms, "ROWS_AT_ONCE", 100)


def runner_for(architecture, modules="mlp+embedding", batch=4):
    model = EVERY[architecture]()
    return Runner(model, select_modules(model, modules), batch)


def words_of(runner):
    return [layer for layer in runner.modules if layer.outputs != "factor"]


def masked(count=6):
    """Sequences of several lengths, in which a third of the tokens carries no loss."""
    made = cases.sequences(count)
    loss = np.random.default_rng(3).random(made.tokens.shape) > 1 / 3
    loss[:, 1] = True
    return replace(made, loss=loss)


def autograd_gradients(runner, sequences, labels=None):
    """[sequence, word, width] by words' layer, of the loss of labels at all positions, or of the tokens' own."""
    found = {layer.name: [] for layer in words_of(runner)}
    with oracle.Unfrozen(tuple(runner.modules)):
        for row in range(len(sequences)):
            text = dense.Text(torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64)))
            own = [*text.tokens[1:].tolist(), None] if labels is None else labels[row]
            if sequences.loss is not None:
                carries = [*sequences.loss[row, 1 : sequences.lengths[row]], False]
                own = [label if is_counted else None for label, is_counted in zip(own, carries, strict=True)]
            gradient = oracle.sequence_gradient(
                tuple(words_of(runner)), -dense.label_likelihood(runner.model, text, own)
            )
            for name, G in gradient.items():
                found[name].append(G)
    return {name: torch.stack(each) for name, each in found.items()}


def sampled(runner, sequences, seed):
    texts = [
        dense.Text(torch.from_numpy(tokens[:length].astype(np.int64)), key=int(key))
        for tokens, length, key in zip(sequences.tokens, sequences.lengths, sequences.keys, strict=True)
    ]
    return [[*dense.sampled_labels(runner.model, text, seed), None] for text in texts]


def fit(runner, sequences, sampler=None):
    """The curvature of the words' layers."""
    factors = covariances(runner, sequences, sampler)
    bases = {m.name: factors[m.name].basis(m.output_width) for m in runner.modules}
    Λ = {name: m.mean() for name, m in eigenvalue_corrections(runner, sequences, bases, sampler).items()}
    return {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}


@pytest.mark.parametrize("architecture", EVERY)
def test_one_layer_if_embedding_and_head_are_one_and_two_if_not(architecture):
    runner = runner_for(architecture)
    assert [layer.name for layer in words_of(runner)] == NAMES[architecture]
    width = runner.model.config.hidden_size
    assert {(m.output_width, m.input_width) for m in words_of(runner)} == {(cases.VOCABULARY, width)}
    rehearse(runner.model, runner.modules)


@pytest.mark.parametrize("architecture", EVERY)
def test_query_gradients_are_those_of_autograd(architecture):
    runner, queries = runner_for(architecture), cases.queries()
    expected, _ = oracle.gradients(runner.model, runner.modules, queries, sign=+1)
    found = query_gradients(runner, queries).layers
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("architecture", EVERY)
def test_scores_are_inner_products_with_autograds_gradients_where_the_loss_is_masked(architecture, batch):
    runner, sequences = runner_for(architecture, "embedding", batch), masked()
    P = {m.name: torch.randn(3, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    G = autograd_gradients(runner, sequences)
    expected = -sum(torch.einsum("qoi,soi->qs", P[name], G[name]) for name in P) / N
    np.testing.assert_allclose(scores(runner, sequences, {"any": P}, N)["any"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", EVERY)
def test_layers_and_tokens_sum_to_the_score(architecture):
    runner, sequences = runner_for(architecture), cases.sequences()
    P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    total = scores(runner, sequences, {"any": P}, N)["any"]
    details = score_details(runner, sequences, P, N, Pairs.every(2, len(sequences)))
    by_layer, by_token = (parts.reshape(2, len(sequences), -1) for parts in (details.by_layer, details.by_token))
    np.testing.assert_allclose(by_layer.sum(-1), total, rtol=1e-9)
    np.testing.assert_allclose(by_token.sum(-1), total, rtol=1e-9)
    G = autograd_gradients(runner, sequences)
    for index, layer in enumerate(runner.modules):
        if layer.name in G:
            expected = -torch.einsum("qoi,soi->qs", P[layer.name], G[layer.name]) / N
            np.testing.assert_allclose(by_layer[..., index], expected, rtol=1e-8, atol=1e-12)
    padding = np.arange(cases.CONTEXT)[None, :] >= sequences.lengths[:, None] - 1
    assert (by_token[:, padding] == 0).all()


def token_terms(runner, tokens, P):
    """−⟨P, what each position adds to the words' gradients⟩ / N: [query, position], by plain autograd."""
    model, seen = runner.model, {}

    def keep(name):
        def hook(_module, inputs, output):
            seen[name] = inputs[0].detach(), output.requires_grad_()
            output.retain_grad()

        return hook

    modules = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    (-dense.label_likelihood(model, dense.Text(tokens), tokens[1:].tolist())).backward()
    for handle in handles:
        handle.remove()
    total = torch.zeros(len(next(iter(P.values()))), len(tokens), dtype=torch.float64)
    layers, scale = words_of(runner), float(getattr(model.get_input_embeddings(), "embed_scale", 1))
    for t, token in enumerate(tokens.tolist()):
        total[:, t] -= P[layers[0].name][:, token] @ (scale * seen["embedding"][1].grad[0, t]) / N
        h, logits = seen["head"]
        head = torch.outer(logits.grad[0, t], h[0, t])
        total[:, t] -= torch.einsum("qoi,oi->q", P[layers[-1].name], head) / N
    return total


@pytest.mark.parametrize("architecture", KINDS)
def test_a_position_has_the_token_that_goes_in_and_the_one_that_it_predicts(architecture):
    runner, sequences = runner_for(architecture, "embedding"), cases.sequences(4)
    P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    found = score_details(runner, sequences, P, N, Pairs.every(2, 4)).by_token.reshape(2, 4, -1)
    cuts = [(row, 0, 1) for row in range(4)] + [(row, 1, int(sequences.lengths[row])) for row in range(4)]
    parts = Parts(*np.array(sorted(cuts), np.int64).T)
    totals = ScoreTotals({}, 4, N, "cpu", parts)
    totals.include("any", 2, split=True)
    totals.hold("any", P)
    of_parts = score_all(runner, sequences, totals, None).part_totals("any")
    for row, length in enumerate(sequences.lengths):
        tokens = torch.from_numpy(sequences.tokens[row, :length].astype(np.int64))
        expected = token_terms(runner, tokens, P)
        np.testing.assert_allclose(found[:, row, :length], expected, rtol=1e-8, atol=1e-12)
        in_parts = torch.stack([expected[:, :1].sum(1), expected[:, 1:].sum(1)], dim=1)
        np.testing.assert_allclose(of_parts[:, parts.sequences == row], in_parts, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("sampler", [None, LabelSampler(11)], ids=["empirical", "true"])
@pytest.mark.parametrize("architecture", KINDS)
def test_curvature_is_that_of_autograds_gradients(architecture, sampler):
    """A = E[Gᵀ G] and Λ = E[(G Q_A)²] over sequences, whatever the batches are."""
    runner, sequences = runner_for(architecture, "embedding"), cases.sequences(5)
    labels = None if sampler is None else sampled(runner, sequences, sampler.seed)
    gradients = autograd_gradients(runner, sequences, labels)
    for batch in (5, 2):
        again = replace(runner, batch_sequences=batch)
        factors, fitted = covariances(again, sequences, sampler), fit(again, sequences, sampler)
        for name, G in gradients.items():
            A = torch.einsum("soi,soj->ij", G, G) / 5
            torch.testing.assert_close(factors[name].A.mean(), A)
            assert factors[name].S is None
            Q = torch.linalg.eigh(A).eigenvectors
            torch.testing.assert_close(fitted[name].Λ, (G @ Q).square().mean(0), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("architecture", KINDS)
def test_shards_add_up_and_have_the_scores_of_the_whole(architecture):
    runner, sequences, sampler = runner_for(architecture, "embedding", 3), cases.sequences(7), LabelSampler(11)
    order = np.array([3, 1, 6, 0, 2, 5, 4])
    shards = [sequences.take(order[:3]), sequences.take(order[3:])]
    bases = {name: layer.basis for name, layer in fit(runner, sequences, sampler).items()}
    whole, parts = ([covariances(runner, some, sampler) for some in each] for each in ([sequences], shards))
    Λ, of_shards = (
        [eigenvalue_corrections(runner, some, bases, sampler) for some in each] for each in ([sequences], shards)
    )
    P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    for name in P:
        torch.testing.assert_close(sum(part[name].A.total for part in parts), whole[0][name].A.total)
        assert sum(part[name].A.count for part in parts) == whole[0][name].A.count == 7
        torch.testing.assert_close(sum(part[name].total for part in of_shards), Λ[0][name].total)
        assert sum(part[name].count for part in of_shards) == 7
    found = np.concatenate([scores(runner, shard, {"m": P}, N)["m"] for shard in shards], axis=1)
    np.testing.assert_allclose(found, scores(runner, sequences, {"m": P}, N)["m"][:, order], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("sampler", [None, LabelSampler(11)], ids=["empirical", "true"])
@pytest.mark.parametrize("architecture", KINDS)
def test_one_pass_measures_what_the_separate_ones_do(architecture, sampler):
    runner, sequences = runner_for(architecture, "embedding", 3), cases.sequences(7)
    curvature = fit(runner, sequences, sampler)
    bases = {name: layer.basis for name, layer in curvature.items()}
    some = strongest_coordinates(curvature, 40)
    P = {m.name: torch.randn(5, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    probes = {name: p[:1].clone() for name, p in P.items()}
    factors, Λ, whitened = CovarianceTotals(), CorrectionTotals(), []
    totals = ScoreTotals({"m": {name: p.clone() for name, p in P.items()}}, 7, N, "cpu")
    rows = SketchRows(runner, curvature, some, probes, whitened.append)
    measure(runner, sequences, [factors, Λ, rows, totals], bases, sampler)
    apart = covariances(runner, sequences, sampler)
    corrections = eigenvalue_corrections(runner, sequences, bases, sampler)
    for layer in runner.modules:
        torch.testing.assert_close(factors.of(layer).A.total, apart[layer.name].A.total)
        torch.testing.assert_close(Λ.of(layer).total, corrections[layer.name].total)
    for together, alone in zip(whitened, sketches(runner, sequences, curvature, some, probes), strict=True):
        for part in ("rows", "squared_norms", "exact"):
            np.testing.assert_allclose(getattr(together, part), getattr(alone, part), rtol=1e-6)
    exact = scores(runner, sequences, {"m": {name: p.clone() for name, p in P.items()}}, N, bases)["m"]
    np.testing.assert_allclose(totals.totals()["m"], exact, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("architecture", KINDS)
def test_a_sketch_of_every_coordinate_gives_the_score_itself(architecture):
    runner, sequences, queries = runner_for(architecture, "embedding"), cases.sequences(), cases.queries()
    curvature = fit(runner, sequences, LabelSampler(0))
    bases = {name: layer.basis for name, layer in curvature.items()}
    V = query_gradients(runner, queries, bases).layers
    everything = strongest_coordinates(curvature, 10**9)
    probes = {name: layer.precondition(V[name].clone()) for name, layer in curvature.items()}
    batches = list(sketches(runner, sequences, curvature, everything, probes))
    rows = np.concatenate([batch.rows for batch in batches])
    np.testing.assert_allclose(np.concatenate([b.squared_norms for b in batches]), (rows**2).sum(1), rtol=1e-4)
    G = autograd_gradients(runner, sequences)
    exact = -sum(
        torch.einsum("qoi,soi->qs", probes[name], G[name] @ layer.basis.Q_A) for name, layer in curvature.items()
    ) / N  # fmt: skip
    np.testing.assert_allclose(np.concatenate([b.exact for b in batches], axis=1) / N, exact, rtol=1e-8, atol=1e-12)
    estimate = query_sketches(V, curvature, everything, N) @ rows.T
    np.testing.assert_allclose(estimate, exact, rtol=1e-4, atol=1e-5 * exact.abs().max())


@pytest.mark.parametrize("queries", [1, 60])
@pytest.mark.parametrize("architecture", KINDS)
def test_scores_are_the_same_whether_queries_or_sequences_are_rotated(architecture, queries):
    runner, sequences = runner_for(architecture, "embedding", 3), cases.sequences(7)
    bases = {name: layer.basis for name, layer in fit(runner, sequences).items()}
    P = {m.name: torch.randn(queries, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    rotated = {name: p @ bases[name].Q_A for name, p in P.items()}
    found = scores(runner, sequences, {"m": rotated}, N, bases)["m"]
    np.testing.assert_allclose(found, scores(runner, sequences, {"m": P}, N)["m"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("architecture", KINDS)
def test_outer_products_have_rows_for_what_predicts_alone(architecture):
    runner, queries = runner_for(architecture, "embedding"), cases.queries()
    bases = {name: layer.basis for name, layer in fit(runner, cases.sequences()).items()}
    whole = query_gradients(runner, queries, bases).layers
    products = query_outer_products(runner, queries, bases).layers
    for layer in runner.modules:
        for query, V in enumerate(products[layer.name]):
            torch.testing.assert_close(V.sum(), whole[layer.name][query])
            completion = int(queries.lengths[query] - queries.first_scored[query])
            assert len(V) == (completion if layer.outputs == "words" else 0)
            if layer.outputs == "looked_up":
                assert set(V.indices.tolist()) <= set(queries.tokens[query, : queries.lengths[query]].tolist())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_gauss_newton_products_are_those_of_the_dense_matrix(architecture):
    model = EVERY[architecture]()
    words = select_modules(model, "embedding")
    runner, sequences = Runner(model, words, 2), cases.sequences(3, seed=1)
    bases = {name: layer.basis for name, layer in fit(runner, sequences).items()}
    V = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in words}
    products = gauss_newton_products(runner, [sequences], V, bases)
    G = dense_gauss_newton(model, words, [sequences])
    flat = torch.cat([(v @ bases[n].Q_A.T).flatten(1) for n, v in V.items()], 1) @ G
    for layer, of_layer in zip(words, torch.split(flat, [m.parameters for m in words], dim=1), strict=True):
        matrices = of_layer.view(2, layer.output_width, layer.input_width)
        # Below the last layer there are norms that are computed in float32 whatever the model's precision is.
        rounding = {"rtol": 1e-7, "atol": 1e-7} if architecture == "gpt2" else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(products[layer.name], matrices @ bases[layer.name].Q_A, **rounding)


def test_the_row_of_a_padding_token_is_not_looked_up():
    """Autograd gives the padding's row no gradient where it is looked up; as a head it has one."""
    model = cases.llama(tied=True)
    model.get_input_embeddings().padding_idx = 5
    sequences = cases.sequences()
    assert (sequences.tokens == 5).any()
    runner = Runner(model, select_modules(model, "embedding"), 4)
    P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    G = autograd_gradients(runner, sequences)
    expected = -sum(torch.einsum("qoi,soi->qs", P[name], G[name]) for name in P) / N
    np.testing.assert_allclose(scores(runner, sequences, {"m": P}, N)["m"], expected, rtol=1e-9, atol=1e-12)
