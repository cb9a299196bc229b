"""Everything measured by hooks, against autograd one sequence at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from influence_assets.capture.correction import CorrectionTotals, eigenvalue_corrections
from influence_assets.capture.covariance import CovarianceTotals, covariances
from influence_assets.capture.details import Pairs, score_details
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import LabelSampler, sampled_labels
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, scores
from influence_assets.capture.sketches import SketchRows, query_sketches, sketches
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.eigenbases import preconditioned, rotated
from tests.oracles import ekfac as dense
from tests.oracles import gradients as oracle

N = 40
SEQUENCES_OF_SIDES = {1: 7, 4: 5, 60: 7}
EVERY = cases.ARCHITECTURES | cases.SCALED_LOGITS


def runner_for(architecture, modules="linear", batch_sequences=4):
    model = EVERY[architecture]()
    return Runner(model, select_modules(model, modules), batch_sequences)


def fit(runner, sequences, sampler=None, blocks=1):
    factors = covariances(runner, sequences, sampler, blocks=blocks)
    bases = {name: eigenbasis(c.A, c.S) for name, c in factors.items()}
    Λ = {name: m.mean() for name, m in eigenvalue_corrections(runner, sequences, bases, sampler).items()}
    return {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}


@pytest.mark.parametrize("modules", ["mlp", "linear"])
@pytest.mark.parametrize("architecture", EVERY)
def test_query_gradients_are_those_of_autograd(architecture, modules):
    runner, queries = runner_for(architecture, modules), cases.queries()
    assert (runner.head is None) is (architecture in cases.SCALED_LOGITS)
    found = query_gradients(runner, queries)
    expected, likelihoods = oracle.gradients(runner.model, runner.modules, queries, sign=+1)
    torch.testing.assert_close(torch.from_numpy(found.log_probabilities), likelihoods)
    assert found.layers.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found.layers[name], expected[name])


@pytest.mark.parametrize("architecture", EVERY)
def test_scores_are_inner_products_with_autograd_gradients_of_the_summed_loss(architecture):
    runner, sequences = runner_for(architecture), cases.sequences()
    P = {m.name: torch.randn(3, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    found = scores(runner, sequences, {"any": P}, N)["any"]
    G, _ = oracle.gradients(runner.model, runner.modules, sequences, sign=-1)
    expected = -sum(torch.einsum("qoi,soi->qs", P[name], G[name]) for name in P) / N
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("architecture", EVERY)
def test_layers_and_tokens_sum_to_the_score(architecture):
    runner, sequences = runner_for(architecture), cases.sequences()
    P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    total = scores(runner, sequences, {"any": P}, N)["any"]
    details = score_details(runner, sequences, P, N, Pairs.every(2, len(sequences)))
    by_layer, by_token = (parts.reshape(2, len(sequences), -1) for parts in (details.by_layer, details.by_token))
    np.testing.assert_allclose(by_layer.sum(-1), total, rtol=1e-9)
    np.testing.assert_allclose(by_token.sum(-1), total, rtol=1e-9)
    G, _ = oracle.gradients(runner.model, runner.modules, sequences, sign=-1)
    for index, linear in enumerate(runner.modules):
        expected = -torch.einsum("qoi,soi->qs", P[linear.name], G[linear.name]) / N
        np.testing.assert_allclose(by_layer[..., index], expected, rtol=1e-8, atol=1e-12)
    padding = np.arange(cases.CONTEXT)[None, :] >= sequences.lengths[:, None] - 1
    assert (by_token[:, padding] == 0).all()


@pytest.mark.parametrize("batch_sequences", [1, 4])
def test_details_of_some_pairs_are_those_of_every_pair_from_one_pass(batch_sequences):
    runner, sequences = runner_for("gpt2", batch_sequences=batch_sequences), cases.sequences()
    P = {m.name: torch.randn(3, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    every = score_details(runner, sequences, P, N, Pairs.every(3, len(sequences)))
    pairs = Pairs(np.array([2, 0, 2, 1, 0]), np.array([5, 5, 0, 3, 3]))  # two sequences are of two queries
    passed = []
    some = score_details(replace(runner, progress=passed.append), sequences, P, N, pairs)
    assert sum(passed) == len(sequences)
    chosen = pairs.queries * len(sequences) + pairs.sequences
    np.testing.assert_allclose(some.by_layer, every.by_layer[chosen], rtol=1e-12)
    np.testing.assert_allclose(some.by_token, every.by_token[chosen], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("architecture", cases.EXPERTS)
def test_attention_beside_experts_has_autograds_gradients(architecture):
    model = cases.EXPERTS[architecture]()
    runner, queries = Runner(model, select_modules(model, ["*.self_attn.*"]), 4), cases.queries()
    found = query_gradients(runner, queries)
    expected, _ = oracle.gradients(model, runner.modules, queries, sign=+1)
    for name in expected:
        torch.testing.assert_close(found.layers[name], expected[name])


@pytest.mark.parametrize("architecture", cases.SCALED_LOGITS)
def test_sampled_labels_of_scaled_logits_are_drawn_from_what_the_model_says(architecture):
    """The total of S of the last layer is that of autograd with labels drawn by the oracle from the model's logits."""
    runner, sequences = runner_for(architecture, "mlp"), cases.sequences(3)
    found = covariances(runner, sequences, LabelSampler(3))
    last = runner.modules[-1]
    expected = torch.zeros(last.output_width, last.output_width, dtype=torch.float64)
    for row, length, key in zip(sequences.tokens, sequences.lengths, sequences.keys, strict=True):
        text = dense.Text(torch.from_numpy(row[:length].astype("int64")), key=int(key))
        labels = dense.sampled_labels(runner.model, text, 3)
        with oracle.Unfrozen((last,)), dense.Recorder((last,)) as recorder:
            (-dense.label_likelihood(runner.model, text, labels)).backward()
        Ds = recorder.seen[last.name][1].grad[0, : length - 1]
        expected += Ds.T @ Ds
        runner.model.zero_grad(set_to_none=True)
    torch.testing.assert_close(found[last.name].S.total, expected)


def test_covariances_count_only_positions_with_a_loss():
    runner, sequences = runner_for("gpt2"), cases.sequences()
    found = covariances(runner, sequences, None)
    name = runner.modules[0].name
    seen = []
    handle = runner.modules[0].module.register_forward_hook(lambda _m, x, _y: seen.append(x[0][0]))
    for row, length in zip(sequences.tokens, sequences.lengths, strict=True):
        runner.model(input_ids=torch.from_numpy(row[None, :length].astype("int64")))
    handle.remove()
    rows = torch.cat([torch.cat([x[:-1], torch.ones(len(x) - 1, 1, dtype=x.dtype)], 1) for x in seen])
    assert found[name].A.count == found[name].S.count == int((sequences.lengths - 1).sum())
    torch.testing.assert_close(found[name].A.total, sum(torch.outer(a, a) for a in rows))


def test_corrected_eigenvalues_are_mean_squares_of_rotated_autograd_gradients():
    runner, sequences = runner_for("gpt2"), cases.sequences()
    curvature = fit(runner, sequences)
    G, _ = oracle.gradients(runner.model, runner.modules, sequences, sign=-1)
    for name, layer in curvature.items():
        rotated = torch.stack([layer.basis.Q_S.T @ g @ layer.basis.Q_A for g in G[name]])
        torch.testing.assert_close(layer.Λ, (rotated**2).mean(0))
        assert layer.λ == pytest.approx(0.1 * float((rotated**2).mean()))


def test_sampled_labels_follow_the_models_distribution():
    """With T = 1 and logits known, the drawn frequencies are the softmax's, within five standard errors."""
    count = 20_000
    generator = np.random.default_rng(3)
    keys = generator.integers(0, 2**62, count)
    made = cases.Sequences(np.zeros((count, 2), np.int32), np.full(count, 2, np.int32), keys)
    batch = next(made.batches(count, "cpu"))
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64).expand(count, 2, 4)
    drawn = sampled_labels(logits, batch, LabelSampler(5))
    assert (drawn[:, 1] == -100).all()
    p = torch.tensor([0.0, 1.0, -1.0, 2.0]).softmax(0).numpy()
    frequency = np.bincount(drawn[:, 0].numpy(), minlength=4) / count
    assert (np.abs(frequency - p) < 5 * np.sqrt(p * (1 - p) / count)).all()


@pytest.mark.parametrize("sampler", [None, LabelSampler(11)], ids=["empirical", "true"])
def test_batch_size_order_and_padding_change_nothing(sampler):
    sequences = cases.sequences(7)
    whole = runner_for("gpt2", batch_sequences=7)
    single = Runner(whole.model, whole.modules, 1)
    order = np.array([3, 1, 6, 0, 2, 5, 4])
    together, apart = covariances(whole, sequences, sampler), covariances(single, sequences.take(order), sampler)
    halves = [covariances(whole, sequences.take(np.arange(7)[rows]), sampler) for rows in (slice(0, 3), slice(3, 7))]
    for name in together:
        torch.testing.assert_close(together[name].A.total, apart[name].A.total)
        torch.testing.assert_close(together[name].S.total, apart[name].S.total)
        torch.testing.assert_close(sum(half[name].S.total for half in halves), together[name].S.total)
    repadded = cases.Sequences(
        np.where(np.arange(cases.CONTEXT) < sequences.lengths[:, None], sequences.tokens, 5).astype(np.int32),
        sequences.lengths,
        sequences.keys,
    )
    P = {m.name: torch.randn(2, m.output_width, m.input_width, dtype=torch.float64) for m in whole.modules}
    np.testing.assert_allclose(
        scores(whole, sequences, {"m": P}, N)["m"], scores(single, repadded, {"m": P}, N)["m"], rtol=1e-9
    )


def test_query_chunks_and_methods_side_by_side_leave_scores_unchanged():
    runner, sequences = runner_for("gpt2"), cases.sequences()
    P = {m.name: torch.randn(5, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    parts = {"first": {n: p[:2] for n, p in P.items()}, "second": {n: p[2:] for n, p in P.items()}}
    found = scores(runner, sequences, parts, N)
    whole = scores(runner, sequences, {"m": P}, N)["m"]
    np.testing.assert_allclose(np.concatenate([found["first"], found["second"]]), whole, rtol=1e-10)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_sketch_of_every_coordinate_gives_the_score_itself(blocks):
    runner, sequences, queries = runner_for("gpt2"), cases.sequences(), cases.queries()
    curvature = fit(runner, sequences, LabelSampler(0), blocks)
    gradients = query_gradients(runner, queries)
    everything = strongest_coordinates(curvature, 10**9)
    assert everything.energy == pytest.approx(1)
    P = {name: preconditioned(layer, gradients.layers[name]) for name, layer in curvature.items()}
    in_bases = {name: rotated(layer.basis, gradients.layers[name]) for name, layer in curvature.items()}
    probes = {name: rotated(layer.basis, P[name]) for name, layer in curvature.items()}
    batches = list(sketches(runner, sequences, curvature, everything, probes))
    rows = np.concatenate([batch.rows for batch in batches])
    probed = [batch.exact for batch in batches]
    estimate = query_sketches(in_bases, curvature, everything, N) @ rows.T
    np.testing.assert_allclose(np.concatenate([b.squared_norms for b in batches]), (rows**2).sum(1), rtol=1e-4)
    exact = scores(runner, sequences, {"m": P}, N)["m"]
    np.testing.assert_allclose(np.concatenate(probed, axis=1) / N, exact, rtol=1e-9)
    np.testing.assert_allclose(estimate, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


def test_the_sign_an_actual_training_step_on_the_sequence_raises_the_completion():
    """Gradient descent on z moves f by −ε ∇f·∇L, which is what a positive score with the identity says."""
    runner, queries = runner_for("gpt2"), cases.queries(1)
    itself = cases.Sequences(queries.tokens, queries.lengths, queries.keys)
    gradients = query_gradients(runner, queries)
    score = scores(runner, itself, {"m": gradients.layers}, 1)["m"][0, 0]
    step = 1e-6
    G, _ = oracle.gradients(runner.model, runner.modules, itself, sign=-1)
    with torch.no_grad():
        for linear in runner.modules:
            g = G[linear.name][0]
            linear.module.weight -= step * g[:, :-1].T
            linear.module.bias -= step * g[:, -1]
    after = query_gradients(runner, queries).log_probabilities
    assert (after - gradients.log_probabilities)[0] / step == pytest.approx(score, rel=1e-3)


def test_bfloat16_passes_keep_sums_in_float32():
    model = cases.gpt2(width=16).to(torch.bfloat16)
    runner = Runner(model, select_modules(model, "mlp"), 4)
    found = covariances(runner, cases.sequences(), None)
    exact_model = cases.gpt2(width=16)
    exact = covariances(Runner(exact_model, select_modules(exact_model, "mlp"), 4), cases.sequences(), None)
    for name in exact:
        assert found[name].A.total.dtype == torch.float32
        error = (found[name].A.total.double() - exact[name].A.total).norm() / exact[name].A.total.norm()
        assert error < 0.02


@pytest.mark.parametrize(
    ("queries", "sides"), [(1, [(False, False)]), (4, [(False, True), (True, False)]), (60, [(True, True)])]
)
def test_scores_of_queries_in_the_eigenbases_are_those_of_queries_rotated_back(queries, sides):
    """Whichever side is rotated, of queries or of sequences, the score is the same."""
    runner, sequences = runner_for("gpt2", batch_sequences=3), cases.sequences(SEQUENCES_OF_SIDES[queries])
    curvature = fit(runner, sequences)
    bases = {name: layer.basis for name, layer in curvature.items()}
    P = {m.name: torch.randn(queries, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    in_bases = {name: rotated(basis, P[name]) for name, basis in bases.items()}
    totals = ScoreTotals({"m": {name: p.clone() for name, p in in_bases.items()}}, len(sequences), N, "cpu")
    chosen = totals.in_eigenbases(bases, cases.CONTEXT, rotated_anyway=False)
    assert set(sides) <= set(map(tuple, chosen.values()))
    exact = scores(runner, sequences, {"m": P}, N)["m"]
    found = scores(runner, sequences, {"m": in_bases}, N, bases)["m"]
    np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-12)


def test_query_gradients_in_the_eigenbases_are_the_rotated_ones():
    runner, sequences, queries = runner_for("gpt2"), cases.sequences(), cases.queries()
    curvature = fit(runner, sequences)
    plain, found = (
        query_gradients(runner, queries, bases).layers
        for bases in (None, {name: layer.basis for name, layer in curvature.items()})
    )
    for name, layer in curvature.items():
        torch.testing.assert_close(found[name], layer.basis.Q_S.T @ plain[name] @ layer.basis.Q_A)


@pytest.mark.parametrize("sampler", [None, LabelSampler(11)], ids=["empirical", "true"])
def test_one_pass_measures_what_the_separate_ones_do(sampler):
    runner, sequences = runner_for("gpt2", batch_sequences=3), cases.sequences(7)
    curvature = fit(runner, sequences, sampler)
    bases = {name: layer.basis for name, layer in curvature.items()}
    everything = strongest_coordinates(curvature, 40)
    P = {m.name: torch.randn(5, m.output_width, m.input_width, dtype=torch.float64) for m in runner.modules}
    probes = {name: p[:1] for name, p in P.items()}
    factors, Λ, whitened = CovarianceTotals(), CorrectionTotals(), []
    first, second = ScoreTotals({"first": dict(P)}, 7, N, "cpu"), ScoreTotals({"second": dict(probes)}, 7, N, "cpu")
    rows = SketchRows(runner, curvature, everything, probes, whitened.append)
    measure(runner, sequences, [factors, Λ, rows, first, second], bases, sampler)
    apart = covariances(runner, sequences, sampler)
    corrections = eigenvalue_corrections(runner, sequences, bases, sampler)
    for layer in runner.modules:
        name = layer.name
        torch.testing.assert_close(factors.of(layer).A.total, apart[name].A.total)
        torch.testing.assert_close(factors.of(layer).S.total, apart[name].S.total)
        torch.testing.assert_close(Λ.of(layer).total, corrections[name].total)
    for together, alone in zip(whitened, sketches(runner, sequences, curvature, everything, probes), strict=True):
        for part in ("rows", "squared_norms", "exact"):
            np.testing.assert_allclose(getattr(together, part), getattr(alone, part), rtol=1e-6)
    exact = scores(runner, sequences, {"m": dict(P)}, N, bases)["m"]
    np.testing.assert_allclose(first.totals()["first"], exact, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(second.totals()["second"], exact[:1], rtol=1e-8, atol=1e-12)
