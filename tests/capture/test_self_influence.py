"""Self-influence against gradients from autograd and a dense inverse, one sequence and one part at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.one_pass import measure
from influence_assets.capture.scores import ScoreTotals
from influence_assets.capture.self_influence import SelfInfluenceTotals
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.low_rank import LowRankBasis, LowRankCurvature
from influence_assets.maths.range_finder import LeadingEigenvectors
from tests import cases
from tests.capture.test_parts import N, cut, runner_for, shared  # noqa: F401  # a fixture
from tests.oracles.ekfac import Recorder, Text, label_likelihood
from tests.oracles.gradients import gradients


def ekfac(runner, sequences):
    """The curvature of every layer, fitted on the sequences' own labels."""
    bases = {name: eigenbasis(total.A, total.S) for name, total in covariances(runner, sequences, None).items()}
    found = eigenvalue_corrections(runner, sequences, bases, None)
    Λ = {name: moment.mean() for name, moment in found.items()}
    return {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}


def low_rank(runner, r=3):
    """A made-up curvature of low rank of every layer."""
    made = {}
    for number, layer in enumerate(runner.modules):
        torch.manual_seed(number)
        sides = []
        for width in (layer.input_width, layer.output_width):
            U = torch.linalg.qr(torch.randn(width, r, dtype=torch.float64)).Q
            sides.append(LeadingEigenvectors(U, torch.ones(r, dtype=torch.float64), float(width)))
        Λ = torch.rand(r + 1, r + 1, dtype=torch.float64)
        made[layer.name] = LowRankCurvature(LowRankBasis.of(*sides), Λ, 0.01)
    return made


def dense_inverse(curvature):
    """(G+λI)⁻¹ of a layer as one matrix, column by column."""
    d_out, d_in = curvature.shape
    units = torch.eye(d_out * d_in, dtype=torch.float64).reshape(-1, d_out, d_in)
    if isinstance(curvature, LayerCurvature):
        Q = torch.kron(curvature.basis.Q_S, curvature.basis.Q_A)
        return Q @ torch.diag(1 / (curvature.Λ.flatten() + curvature.λ)) @ Q.T
    return curvature.precondition(units.clone()).flatten(1)


def part_gradients(runner, sequences, parts):
    """Each part's gradient of the loss: a backward pass for its sequence; the part's positions, one by one."""
    found = []
    for row, start, end in zip(*vars(parts).values(), strict=True):
        tokens = torch.from_numpy(sequences.tokens[row, : sequences.lengths[row]].astype(np.int64))
        embedded = runner.model.get_input_embeddings().register_forward_hook(lambda _m, _i, o: o.requires_grad_())
        with embedded, Recorder(runner.modules) as recorder:
            (-label_likelihood(runner.model, Text(tokens), tokens[1:].tolist())).backward()
        layers = {}
        for linear in runner.modules:
            a, output = recorder.seen[linear.name]
            if a.shape[1] < linear.input_width:  # its bias sees a 1
                a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
            layers[linear.name] = sum(torch.outer(output.grad[0, t], a[t]) for t in range(start, end))
        found.append(layers)
    return found


def by_hand(curvature, found):
    inverses = {name: dense_inverse(layer) for name, layer in curvature.items()}
    quadratic = [sum(float(g[n].flatten() @ inverses[n] @ g[n].flatten()) for n in inverses) / N for g in found]
    return np.array(quadratic)


def measured(runner, sequences, parts, curvature):
    totals = SelfInfluenceTotals(len(sequences), parts, N, "cpu")
    totals.hold(curvature)
    bases = {name: layer.basis for name, layer in curvature.items()}
    measure(runner, sequences, [totals], bases, None)
    return totals


@pytest.mark.parametrize("kind", ["ekfac", "low rank"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("architecture", cases.ARCHITECTURES)
def test_it_is_the_quadratic_form_of_the_dense_inverse(architecture, batch, kind, shared):  # noqa: F811
    sequences, parts = shared
    runner = runner_for(architecture, batch)
    curvature = ekfac(runner, sequences) if kind == "ekfac" else low_rank(runner)
    totals = measured(runner, sequences, parts, curvature)
    whole, _ = gradients(runner.model, tuple(runner.modules), sequences, sign=-1)
    each = [{name: G[row] for name, G in whole.items()} for row in range(len(sequences))]
    np.testing.assert_allclose(totals.sequences, by_hand(curvature, each), rtol=1e-8)
    np.testing.assert_allclose(totals.parts, by_hand(curvature, part_gradients(runner, *shared)), rtol=1e-8, atol=1e-15)


def test_it_is_the_score_of_a_sequence_for_itself(shared):  # noqa: F811
    """As the query's gradient is that of log p, −g, its score is −⟨−(H+λ)⁻¹ g, g⟩ / N."""
    sequences, parts = shared
    runner = runner_for("gpt2")
    curvature = ekfac(runner, sequences)
    totals = measured(runner, sequences, parts, curvature)
    whole, _ = gradients(runner.model, tuple(runner.modules), sequences, sign=+1)
    P = {}
    for name, layer in curvature.items():
        rotated = layer.basis.Q_S.T @ whole[name] @ layer.basis.Q_A
        P[name] = layer.precondition(rotated)
    scored = ScoreTotals({"own": P}, len(sequences), N, "cpu")
    measure(runner, sequences, [scored], {name: layer.basis for name, layer in curvature.items()}, None)
    np.testing.assert_allclose(totals.sequences, scored.totals()["own"].diagonal(), rtol=1e-9)


def test_its_mean_is_the_trace_that_the_curvature_is_fitted_on(shared):  # noqa: F811
    """With the text's own labels, mean_z g²_ij = Λ_ij, so N · mean_z s(z) = Σ_layers Σ_ij Λ_ij / (Λ_ij + λ)."""
    sequences, parts = shared
    runner = runner_for("llama")
    curvature = ekfac(runner, sequences)
    totals = measured(runner, sequences, parts, curvature)
    expected = sum(float((layer.Λ / (layer.Λ + layer.λ)).sum()) for layer in curvature.values())
    assert N * totals.sequences.mean() == pytest.approx(expected, rel=1e-9)


@given(st.data())
def test_parts_are_never_negative_and_their_roots_never_sum_to_less_than_the_whole(data):
    """√s is a norm of the gradient, so the triangle inequality holds for a sum of parts."""
    runner, sequences = runner_for("gpt2", data.draw(st.integers(1, 7))), cases.sequences(6)
    cuts = [sorted(data.draw(st.sets(st.integers(1, int(length) - 1), max_size=11))) for length in sequences.lengths]
    parts = cut(sequences, cuts)
    totals = measured(runner, sequences, parts, ekfac(runner, sequences))
    assert (totals.parts >= 0).all()
    for row in range(len(sequences)):
        if cuts[row]:
            roots = np.sqrt(totals.parts[parts.sequences == row]).sum()
            assert roots >= np.sqrt(totals.sequences[row]) * (1 - 1e-9)


def test_groups_of_layers_add_up(shared):  # noqa: F811
    """The layers of a model that is measured in turns, as where memory is short."""
    sequences, parts = shared
    runner = runner_for("gpt2")
    curvature = ekfac(runner, sequences)
    together = measured(runner, sequences, parts, curvature)
    totals = SelfInfluenceTotals(len(sequences), parts, N, "cpu")
    for layer in runner.modules:
        totals.hold({layer.name: curvature[layer.name]})
        alone = replace(runner, modules=[layer])
        measure(alone, sequences, [totals], {layer.name: curvature[layer.name].basis}, None)
        totals.release()
    np.testing.assert_allclose(totals.sequences, together.sequences, rtol=1e-10)
    np.testing.assert_allclose(totals.parts, together.parts, rtol=1e-10)
