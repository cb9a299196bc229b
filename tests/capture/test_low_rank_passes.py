"""Curvature of low rank measured by hooks, against autograd one sequence at a time and against EK-FAC."""

import numpy as np
import pytest
import torch

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.low_rank import (
    CovarianceSketchTotals,
    LowRankStatistics,
    covariance_sketches,
    low_rank_corrections,
)
from influence_assets.capture.one_pass import measure
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.low_rank import LowRankCurvature
from influence_assets.maths.range_finder import gaussian_matrix
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.eigenbases import preconditioned
from tests.oracles import gradients as oracle

N = 40
EVERY = cases.ARCHITECTURES | cases.SCALED_LOGITS
SAMPLERS = pytest.mark.parametrize("sampler", [None, LabelSampler(11)], ids=["empirical", "true"])


def runner_for(architecture="gpt2", modules="linear", batch_sequences=4, **shape):
    model = EVERY[architecture](**shape)
    return Runner(model, select_modules(model, modules), batch_sequences)


def bases_for(runner, sequences, sampler, rank):
    found = {}
    sketches = covariance_sketches(runner, sequences, sampler, CurvatureForm(rank=rank))
    for layer in runner.modules:
        found[layer.name] = sketches[layer.name].basis(CurvatureForm(rank=rank))
    return found


def fit(runner, sequences, rank, sampler=None):
    bases = bases_for(runner, sequences, sampler, rank)
    corrections = low_rank_corrections(runner, sequences, bases, sampler)
    return {
        name: LowRankCurvature.fitted(bases[name], correction.squared_norms, 0.1)
        for name, correction in corrections.items()
    }


def with_masked_loss(sequences):
    """Half of the tokens carry no loss; the last sequence has none that does."""
    loss = np.random.default_rng(5).integers(0, 2, sequences.tokens.shape, dtype=np.uint8)
    loss[-1] = 0
    return cases.Sequences(sequences.tokens, sequences.lengths, sequences.keys, loss=loss)


def test_rank_zero_has_the_mean_of_all_squared_entries():
    runner, sequences = runner_for(), cases.sequences()
    G, _ = oracle.gradients(runner.model, runner.modules, sequences, sign=-1)
    for name, layer in fit(runner, sequences, 0).items():
        torch.testing.assert_close(layer.Λ, (G[name] ** 2).mean().reshape(1, 1))
    bases = bases_for(runner, sequences, None, 0)
    for layer in low_rank_corrections(runner, sequences, bases, None).values():
        assert (float(layer.A.within.drift()), float(layer.A.outside())) == (0, 1)


@pytest.mark.parametrize("architecture", EVERY)
def test_squared_norms_are_those_of_autograds_gradients(architecture):
    runner, sequences = runner_for(architecture), cases.sequences()
    curvature = fit(runner, sequences, 3)
    G, _ = oracle.gradients(runner.model, runner.modules, sequences, sign=-1)
    for name, layer in curvature.items():
        U_S, U_A = layer.basis.U_S, layer.basis.U_A
        assert (U_S.shape[1], U_A.shape[1]) == (3, 3)
        within = torch.stack([U_S.T @ g @ U_A for g in G[name]])
        torch.testing.assert_close(layer.Λ[:-1, :-1], (within**2).mean(0))
        trace = float((G[name] ** 2).sum()) / len(sequences)
        assert float((layer.Λ * layer.basis.multiplicities).sum()) == pytest.approx(trace, rel=1e-9)
        assert layer.λ == pytest.approx(0.1 * float((G[name] ** 2).mean()), rel=1e-9)


@SAMPLERS
def test_full_rank_scores_are_those_of_ekfac(sampler):
    runner, sequences, queries = runner_for(), cases.sequences(), cases.queries()
    factors = covariances(runner, sequences, sampler)
    bases = {name: eigenbasis(layer.A, layer.S) for name, layer in factors.items()}
    Λ = {name: m.mean() for name, m in eigenvalue_corrections(runner, sequences, bases, sampler).items()}
    V = query_gradients(runner, queries).layers
    ekfac = {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}
    exact = {name: preconditioned(layer, V[name].clone()) for name, layer in ekfac.items()}
    found = {name: layer.precondition(V[name].clone()) for name, layer in fit(runner, sequences, 1000, sampler).items()}
    expected, actual = (scores(runner, sequences, {"m": P}, N)["m"] for P in (exact, found))
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max())


def test_sketches_of_wide_layers_are_the_covariances_times_the_random_matrix():
    runner, sequences = runner_for(modules="mlp", width=40), cases.sequences()
    found = covariance_sketches(runner, sequences, LabelSampler(3), CurvatureForm(rank=1, seed=9))
    whole = covariances(runner, sequences, LabelSampler(3))
    widths = []
    for layer in runner.modules:
        for width, letter in ((layer.input_width, "A"), (layer.output_width, "S")):
            finder = CurvatureForm(rank=1, seed=9).finder(width)
            sketch, moment = getattr(found[layer.name], letter), getattr(whole[layer.name], letter)
            assert not finder.is_whole
            expected = moment.total @ gaussian_matrix(finder.width, finder.columns, 9)
            torch.testing.assert_close(sketch.Y.total, expected)
            torch.testing.assert_close(sketch.trace.total, moment.total.trace())
            assert sketch.Y.count == sketch.trace.count == moment.count
            widths.append(finder.width)
    assert set(widths) == {40, 41, 160, 161}


@SAMPLERS
def test_batch_size_order_shards_and_padding_change_nothing(sampler):
    sequences = with_masked_loss(cases.sequences(7))
    whole = runner_for(batch_sequences=7)
    single = Runner(whole.model, whole.modules, 1)
    order = np.array([3, 1, 6, 0, 2, 5, 4])
    repadded = cases.Sequences(
        np.where(np.arange(cases.CONTEXT) < sequences.lengths[:, None], sequences.tokens, 5).astype(np.int32),
        sequences.lengths,
        sequences.keys,
        loss=sequences.loss,
    )
    together = covariance_sketches(whole, sequences, sampler, CurvatureForm(rank=2))
    apart = covariance_sketches(single, repadded.take(order), sampler, CurvatureForm(rank=2))
    halves = [
        covariance_sketches(whole, sequences.take(np.arange(7)[rows]), sampler, CurvatureForm(rank=2))
        for rows in (slice(0, 3), slice(3, 7))
    ]
    for name, layer in together.items():
        torch.testing.assert_close(layer.A.Y.total, apart[name].A.Y.total)
        torch.testing.assert_close(layer.S.Y.total, apart[name].S.Y.total)
        torch.testing.assert_close(sum(half[name].A.Y.total for half in halves), layer.A.Y.total)
        torch.testing.assert_close(sum(half[name].A.trace.total for half in halves), layer.A.trace.total)
    bases = bases_for(whole, sequences, sampler, 2)
    found = low_rank_corrections(whole, sequences, bases, sampler)
    again = low_rank_corrections(single, repadded.take(order), bases, sampler)
    parts = [
        low_rank_corrections(whole, sequences.take(np.arange(7)[rows]), bases, sampler)
        for rows in (slice(0, 3), slice(3, 7))
    ]
    for name, layer in found.items():
        torch.testing.assert_close(again[name].squared_norms.total, layer.squared_norms.total)
        torch.testing.assert_close(sum(p[name].squared_norms.total for p in parts), layer.squared_norms.total)
        assert layer.squared_norms.count == 6  # one sequence has no loss
        for letter in "AS":
            one, other = getattr(layer, letter), getattr(again[name], letter)
            torch.testing.assert_close(other.within.diagonal, one.within.diagonal)
            torch.testing.assert_close(other.trace, one.trace)
            torch.testing.assert_close(
                sum(getattr(p[name], letter).within.sketch for p in parts), one.within.sketch, rtol=1e-7, atol=1e-9
            )


def test_drift_counts_only_positions_with_a_loss():
    runner, sequences = runner_for(), with_masked_loss(cases.sequences())
    whole = covariances(runner, sequences, LabelSampler(3))
    bases = bases_for(runner, sequences, LabelSampler(3), 2)
    found = low_rank_corrections(runner, sequences, bases, LabelSampler(3))
    for name, layer in found.items():
        for M, U, factor in (
            (whole[name].A.total, bases[name].U_A, layer.A),
            (whole[name].S.total, bases[name].U_S, layer.S),
        ):
            torch.testing.assert_close(factor.trace, M.trace())
            torch.testing.assert_close(factor.within.diagonal, (U.T @ M @ U).diagonal())
            # Narrow factors are decomposed exactly, so what they were fitted on has not drifted.
            assert float(factor.within.drift()) < 1e-20
        energy = float(bases[name].eigenvalues_A.sum()) / bases[name].trace_A
        assert float(layer.A.outside()) == pytest.approx(1 - energy, abs=1e-9)


@SAMPLERS
def test_one_pass_measures_what_the_separate_ones_do(sampler):
    runner, sequences = runner_for(batch_sequences=3), cases.sequences(7)
    bases = bases_for(runner, sequences, sampler, 2)
    sketches, corrections = CovarianceSketchTotals(CurvatureForm(rank=2)), LowRankStatistics(runner, bases)
    measure(runner, sequences, [sketches, corrections], {}, sampler)
    alone = covariance_sketches(runner, sequences, sampler, CurvatureForm(rank=2))
    alone_too = low_rank_corrections(runner, sequences, bases, sampler)
    for layer in runner.modules:
        torch.testing.assert_close(sketches.of(layer).S.Y.total, alone[layer.name].S.Y.total)
        found = corrections.of(layer).squared_norms.total
        torch.testing.assert_close(found, alone_too[layer.name].squared_norms.total)


def test_no_sequences_have_totals_of_zero():
    runner, nothing = runner_for(), cases.sequences().take(np.arange(0))
    bases = bases_for(runner, cases.sequences(), None, 2)
    for layer in covariance_sketches(runner, nothing, None, CurvatureForm(rank=2)).values():
        assert layer.A.Y.count == layer.S.Y.count == float(layer.A.Y.total.abs().sum()) == 0
    for layer in low_rank_corrections(runner, nothing, bases, None).values():
        assert layer.squared_norms.count == float(layer.squared_norms.total.sum()) == float(layer.A.outside()) == 0


def test_experts_that_see_few_tokens_are_measured():
    model = cases.mixtral()
    runner, sequences = Runner(model, select_modules(model, "mlp"), 4), cases.sequences()
    curvature = fit(runner, sequences, 2)
    assert len(curvature) == len(runner.modules)
    for layer in curvature.values():
        torch.testing.assert_close(
            layer.basis.U_A.T @ layer.basis.U_A, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-10
        )


def test_bfloat16_passes_keep_sums_in_float32():
    model = cases.gpt2(width=16).to(torch.bfloat16)
    runner = Runner(model, select_modules(model, "mlp"), 4)
    bases = bases_for(runner, cases.sequences(), None, 2)
    found = low_rank_corrections(runner, cases.sequences(), bases, None)
    exact_model = cases.gpt2(width=16)
    exact_runner = Runner(exact_model, select_modules(exact_model, "mlp"), 4)
    exact = low_rank_corrections(exact_runner, cases.sequences(), bases, None)
    for name, layer in found.items():
        assert layer.squared_norms.total.dtype == torch.float32
        error = (layer.squared_norms.total.double() - exact[name].squared_norms.total).norm()
        assert float(error / exact[name].squared_norms.total.norm()) < 0.1
