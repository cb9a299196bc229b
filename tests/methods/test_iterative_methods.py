"""Methods that multiply with the exact Gauss-Newton Hessian, against the dense system of all layers together."""

import pytest
import torch

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.solvers import largest_eigenvalue
from influence_assets.methods import astra, conjugate_gradients, lissa
from influence_assets.methods.ekfac import precondition
from influence_assets.methods.method import MethodContext, TrainingSequences
from influence_assets.methods.registry import attribution_methods
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import gradients as oracle
from tests.oracles.gauss_newton import dense_gauss_newton

NAMES = ("conjugate_gradients", "lissa", "astra")


@pytest.fixture(scope="module")
def system():
    """A context, V, and the dense matrix, right-hand sides and exact solution in the model's coordinates."""
    model, queries = cases.gpt2(width=4, layers=1), cases.queries(2)
    runner = Runner(model, select_modules(model, "mlp"), 4)
    shards = [cases.sequences(5, seed=1), cases.sequences(3, seed=2)]
    bases = {name: eigenbasis(c.A, c.S) for name, c in covariances(runner, shards[0], None).items()}
    Λ = {name: m.mean() for name, m in eigenvalue_corrections(runner, shards[0], bases, None).items()}
    curvature = {name: LayerCurvature(bases[name], Λ[name], damping(float(Λ[name].mean()), 0.1)) for name in bases}
    context = MethodContext(runner, bases, curvature, TrainingSequences([lambda s=s: s for s in shards]))
    V = query_gradients(runner, queries, bases).layers
    f, _ = oracle.gradients(model, runner.modules, queries, sign=+1)
    λ = torch.cat([torch.full((layer.parameters,), curvature[layer.name].λ) for layer in runner.modules])
    M = dense_gauss_newton(model, runner.modules, shards) + torch.diag(λ.double())
    v = torch.cat([f[layer.name].flatten(1) for layer in runner.modules], 1)
    return context, V, M, v


def prepared(name, system):
    context, V, _, _ = system
    P = attribution_methods()[name].prepare({layer: v.clone() for layer, v in V.items()}, context)
    return torch.cat([context.bases[m.name].rotate_back(P[m.name]).flatten(1) for m in context.runner.modules], 1)


def residuals(name, system):
    """‖M P − v‖ / ‖v‖ of each query."""
    _, _, M, v = system
    return ((prepared(name, system) @ M - v).norm(dim=1) / v.norm(dim=1)).tolist()


@pytest.mark.slow
def test_conjugate_gradients_reach_the_dense_solution(system, monkeypatch):
    monkeypatch.setattr(conjugate_gradients, "ITERATIONS", 300)
    _, _, M, v = system
    expected = torch.linalg.solve(M, v.T).T
    largest = float(expected.abs().max())
    torch.testing.assert_close(prepared("conjugate_gradients", system), expected, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.slow
def test_lissa_falls_short_as_if_the_damping_were_larger(system, monkeypatch):
    """All sequences are in each batch, so that nothing is left to chance."""
    monkeypatch.setattr(lissa, "BATCH", 100)
    steps = 60
    monkeypatch.setattr(lissa, "STEPS", steps)
    _, _, M, v = system
    eigenvalues, U = torch.linalg.eigh(M)
    found = prepared("lissa", system)
    context, V, _, _ = system
    batches = context.training.batches(lissa.SEQUENCES, 1, most=lissa.SEQUENCES, seed=lissa.SEED)
    s = lissa.MARGIN * largest_eigenvalue(lambda X: context.damped(X, batches), V, lissa.POWER_ITERATIONS, lissa.SEED)
    expected = (v @ U) * (1 - (1 - eigenvalues / s) ** steps) / eigenvalues @ U.T
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max()))
    exact = torch.linalg.solve(M, v.T).T
    assert float((found - exact).norm()) > 0.1 * float(exact.norm())


def test_each_goes_from_ekfacs_answer_towards_the_solution(system):
    context, V, M, v = system
    approximate = precondition({name: value.clone() for name, value in V.items()}, context.curvature)
    modules = context.runner.modules
    start = torch.cat([context.bases[m.name].rotate_back(approximate[m.name]).flatten(1) for m in modules], 1)
    expected = torch.linalg.solve(M, v.T).T
    error = float(((start - expected) @ torch.linalg.cholesky(M)).norm())
    for name in ("conjugate_gradients", "astra"):
        found = prepared(name, system)
        assert float(((found - expected) @ torch.linalg.cholesky(M)).norm()) < error, name


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_the_same_sequences_each_time(name, system):
    torch.testing.assert_close(prepared(name, system), prepared(name, system), rtol=0, atol=0)


def test_without_sequences_that_carry_a_loss_it_says_so(system):
    context, V, _, _ = system
    short = cases.sequences(2, seed=1)
    nothing = type(short)(short.tokens[:, :1], short.lengths.clip(max=1), short.keys)
    empty = MethodContext(context.runner, context.bases, context.curvature, TrainingSequences([lambda: nothing]))
    with pytest.raises(ValueError, match="carries a loss"):
        astra._prepare(V, empty)


def test_batches_are_drawn_from_all_shards_and_no_larger_than_asked():
    shards = [cases.sequences(5, seed=1), cases.sequences(3, seed=2)]
    training = TrainingSequences([lambda s=s: s for s in shards])
    every = {key for shard in shards for key in shard.keys.tolist()}
    (all_of_them,) = training.batches(100, 1, most=100, seed=0)
    assert set(all_of_them.keys.tolist()) == every
    batches = training.batches(2, 60, most=100, seed=0)
    assert {len(batch) for batch in batches} == {2}
    assert {key for batch in batches for key in batch.keys.tolist()} == every
