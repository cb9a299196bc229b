"""Tokens without a loss: every measurement against autograd of a loss that is masked by hand, in float64."""

import numpy as np
import pytest
import torch

from influence_assets.capture import correction, covariance
from influence_assets.capture.batches import Parts, Sequences
from influence_assets.capture.details import Pairs, score_details
from influence_assets.capture.gauss_newton import gauss_newton_products
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, score_all, scores
from influence_assets.capture.sketches import SketchRows, sketches
from influence_assets.layouts.model import fit_sequences
from influence_assets.maths.ekfac import LayerCurvature, eigenbasis
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import ekfac as oracle
from tests.oracles.gradients import Unfrozen, sequence_gradient

N = 7
SEED = 11
SAMPLERS = {"empirical": None, "sampled": LabelSampler(SEED)}
ARCHITECTURES = {"gpt2": cases.gpt2, "scaled_logits": cases.gemma2}
CLOSE = {"gpt2": 1e-9, "scaled_logits": 1e-5}
"""The second one's norms compute in float32."""
EMPTY = (1, 4)


def masked(count=7):
    """Random masks; two of the sequences have no token with a loss, one has it in its first token alone: none."""
    made = cases.sequences(count)
    loss = (np.random.default_rng(5).random(made.tokens.shape) < 0.4).astype(np.uint8)
    loss[np.arange(count), made.lengths - 1] = 1
    loss[list(EMPTY)] = 0
    loss[EMPTY[1], 0] = 1
    return Sequences(made.tokens, made.lengths, made.keys, loss=loss)


def runner_for(architecture, batch=3):
    model = ARCHITECTURES[architecture]()
    return Runner(model, select_modules(model, "mlp"), batch)


def text(sequences, row):
    tokens = torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64))
    return oracle.Text(tokens, key=int(sequences.keys[row]))


def counted(sequences, row):
    """The positions whose next token carries a loss, one by one."""
    return [t for t in range(int(sequences.lengths[row]) - 1) if sequences.loss[row, t + 1]]


def loss_by_hand(model, sequences, row, sampler):
    own = text(sequences, row)
    labels = own.tokens[1:].tolist() if sampler is None else oracle.sampled_labels(model, own, sampler.seed)
    logits = model(input_ids=own.tokens[None]).logits[0]
    total = logits.sum() * 0
    for position in counted(sequences, row):
        total = total - logits[position].log_softmax(-1)[labels[position]]
    return total


def gradients(runner, sequences, sampler=None):
    """For each layer [sequence, d_out, d_in]."""
    found = []
    with Unfrozen(tuple(runner.modules)):
        for row in range(len(sequences)):
            loss = loss_by_hand(runner.model, sequences, row, sampler)
            found.append(sequence_gradient(tuple(runner.modules), loss))
    return {m.name: torch.stack([of[m.name] for of in found]) for m in runner.modules}


def factors(runner, queries=3):
    torch.manual_seed(3)
    return {m.name: torch.randn(queries, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}


def bases_of(runner, sequences):
    found = covariance.covariances(runner, sequences, None)
    return {name: eigenbasis(layer.A, layer.S) for name, layer in found.items()}


@pytest.fixture
def sequences():
    return masked()


@pytest.mark.parametrize("batch", [1, 3, 7])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_and_their_splits_are_those_of_the_masked_loss(architecture, batch, sequences):
    runner = runner_for(architecture, batch)
    P = factors(runner)
    G = gradients(runner, sequences)
    expected = sum(-torch.einsum("qoi,soi->qs", P[name], G[name]) / N for name in P).numpy()
    found = scores(runner, sequences, {"any": {k: v.clone() for k, v in P.items()}}, N)["any"]
    close = {"rtol": CLOSE[architecture], "atol": 1e-3 * CLOSE[architecture]}
    np.testing.assert_allclose(found, expected, **close)
    assert (found[:, list(EMPTY)] == 0).all()
    assert (np.delete(found, EMPTY, axis=1) != 0).all()
    details = score_details(runner, sequences, P, N, Pairs.every(*expected.shape))
    np.testing.assert_allclose(details.by_layer.sum(-1).reshape(expected.shape), expected, **close)
    np.testing.assert_allclose(details.by_token.sum(-1).reshape(expected.shape), expected, **close)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_covariances_are_sums_over_the_positions_with_a_loss(architecture, sampler, sequences):
    runner = runner_for(architecture)
    A = {m.name: torch.zeros(m.input_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    S = {m.name: torch.zeros(m.output_width, m.output_width, dtype=torch.float64) for m in runner.modules}
    with Unfrozen(tuple(runner.modules)):
        for row in range(len(sequences)):
            with oracle.Recorder(runner.modules) as recorder:
                loss_by_hand(runner.model, sequences, row, sampler).backward()
            for m in runner.modules:
                x, y = recorder.seen[m.name]
                if x.shape[1] < m.input_width:  # its bias sees a 1
                    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
                for t in counted(sequences, row):
                    A[m.name] += torch.outer(x[t], x[t])
                    S[m.name] += torch.outer(y.grad[0, t], y.grad[0, t])
    total = sum(len(counted(sequences, row)) for row in range(len(sequences)))
    for name, layer in covariance.covariances(runner, sequences, sampler).items():
        assert layer.A.count == layer.S.count == total
        torch.testing.assert_close(layer.A.total, A[name], rtol=CLOSE[architecture], atol=1e-3 * CLOSE[architecture])
        torch.testing.assert_close(layer.S.total, S[name], rtol=CLOSE[architecture], atol=1e-3 * CLOSE[architecture])


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_corrected_eigenvalues_count_the_sequences_with_a_loss(sampler, sequences):
    runner = runner_for("gpt2")
    bases = bases_of(runner, sequences)
    G = gradients(runner, sequences, sampler)
    for name, moment in correction.eigenvalue_corrections(runner, sequences, bases, sampler).items():
        expected = sum((bases[name].Q_S.T @ g @ bases[name].Q_A).square() for g in G[name])
        assert moment.count == len(sequences) - len(EMPTY)
        torch.testing.assert_close(moment.total, expected, rtol=1e-8, atol=1e-13)


def test_gauss_newton_products_are_means_over_the_sequences_with_a_loss(sequences):
    runner = runner_for("gpt2")
    V, bases = factors(runner, 2), bases_of(runner, sequences)
    rows = np.setdiff1d(np.arange(len(sequences)), EMPTY)
    with_empty = gauss_newton_products(runner, [sequences], V, bases)
    without = gauss_newton_products(runner, [sequences.take(rows)], V, bases)
    for name in V:
        torch.testing.assert_close(with_empty[name], without[name], rtol=1e-9, atol=1e-13)


def test_parts_sum_to_the_masked_score_and_those_without_any_loss_after_them_are_zero(sequences):
    runner = runner_for("gpt2")
    half = int(sequences.lengths[0]) // 2
    parts = Parts(*np.array([(0, 0, half), (0, half, int(sequences.lengths[0]))], np.int64).T)
    loss = sequences.loss.copy()
    loss[0] = 0
    loss[0, half - 1] = 1  # predicted at a position of the first part, so the second has neither loss nor gradient
    own = Sequences(sequences.tokens, sequences.lengths, sequences.keys, loss=loss)
    totals = ScoreTotals({}, len(own), N, "cpu", parts)
    totals.include("any", 3, split=True)
    totals.hold("any", factors(runner))
    score_all(runner, own, totals, None)
    whole, split = totals.totals()["any"][:, 0], totals.part_totals("any")
    np.testing.assert_allclose(split.sum(1), whole, rtol=1e-9)
    assert (np.abs(split[:, 1]) <= 1e-15).all()
    assert (split[:, 0] != 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sequences_without_a_loss_have_empty_sketches_and_one_pass_measures_the_same(architecture, sequences):
    runner = runner_for(architecture, 2)  # one batch has no position with a loss
    bases = bases_of(runner, sequences)
    moments = correction.eigenvalue_corrections(runner, sequences, bases, None)
    curvature = {name: LayerCurvature(bases[name], moments[name].mean(), 0.1) for name in bases}
    coordinates = strongest_coordinates(curvature, 64)
    P = factors(runner, 2)
    separate = list(sketches(runner, sequences, curvature, coordinates, P))
    norms = np.concatenate([batch.squared_norms for batch in separate])
    assert (norms[list(EMPTY)] == 0).all()
    assert (np.delete(norms, EMPTY) > 0).all()
    received = []
    totals = correction.CorrectionTotals()
    measure(
        runner,
        sequences,
        [totals, SketchRows(runner, curvature, coordinates, P, received.append)],
        bases,
        None,
    )
    for layer in runner.modules:
        name, moment = layer.name, totals.of(layer)
        assert moment.count == moments[name].count
        close = CLOSE[architecture]
        torch.testing.assert_close(moment.total, moments[name].total, rtol=10 * close, atol=1e-3 * close)
    found = np.concatenate([batch.squared_norms for batch in received])
    np.testing.assert_allclose(found, norms, rtol=10 * close)


def test_the_curvature_is_fitted_on_sequences_with_a_loss_alone(sequences):
    carrying = np.setdiff1d(np.arange(len(sequences)), EMPTY)
    assert fit_sequences(sequences, 1.0, 0).keys.tolist() == sequences.keys[carrying].tolist()
    for seed in range(20):
        drawn = fit_sequences(sequences, 0.5, seed)
        assert set(drawn.keys) <= set(sequences.keys[carrying])


def test_a_mask_of_ones_is_no_mask(sequences):
    runner = runner_for("gpt2")
    plain = Sequences(sequences.tokens, sequences.lengths, sequences.keys)
    ones = Sequences(sequences.tokens, sequences.lengths, sequences.keys, loss=np.ones_like(sequences.loss))
    P = factors(runner)
    found = [scores(runner, of, {"any": {k: v.clone() for k, v in P.items()}}, N)["any"] for of in (plain, ones)]
    np.testing.assert_array_equal(*found)
    assert ones.counted_tokens().tolist() == plain.counted_tokens().tolist() == (plain.lengths - 1).tolist()


def test_shards_with_and_without_a_mask_are_joined(sequences):
    plain = cases.sequences(2, seed=9)
    joined = Sequences.joined([sequences, plain])
    expected = [*sequences.counted_tokens(), *plain.counted_tokens()]
    assert joined.counted_tokens().tolist() == expected
    assert Sequences.joined([plain, plain]).loss is None
    rows = np.array([7, 2, 1])
    assert joined.take(rows).counted_tokens().tolist() == [expected[row] for row in rows]
