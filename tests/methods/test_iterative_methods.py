"""Methods that multiply with the exact Gauss-Newton Hessian, against the dense system of all layers together."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.solvers import largest_eigenvalue
from influence_assets.methods import astra, lissa
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


def prepared(name, system, record=lambda _step: None, **options):
    context, V, _, _ = system
    method = attribution_methods()[name]
    given = replace(context, options=method.options(**options) if options else None, record=record)
    P = method.prepare({layer: v.clone() for layer, v in V.items()}, given)
    return torch.cat([context.bases[m.name].rotate_back(P[m.name]).flatten(1) for m in context.runner.modules], 1)


@pytest.mark.slow
def test_conjugate_gradients_reach_the_dense_solution(system):
    _, _, M, v = system
    expected = torch.linalg.solve(M, v.T).T
    largest = float(expected.abs().max())
    found = prepared("conjugate_gradients", system, iterations=300)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.slow
def test_lissa_falls_short_as_if_the_damping_were_larger(system):
    """All sequences are in each batch, so that nothing is left to chance."""
    steps = 60
    _, _, M, v = system
    eigenvalues, U = torch.linalg.eigh(M)
    found = prepared("lissa", system, iterations=steps, batch=100)
    context, V, _, _ = system
    batches = context.training.batches(512, 1, most=512, seed=0)
    s = lissa.MARGIN * largest_eigenvalue(lambda X: context.damped(X, batches), V, lissa.POWER_ITERATIONS, 0)
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
    with pytest.raises(InputError, match="carries a loss"):
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


def whole_residual(system, P):
    """‖M P − v‖ / ‖v‖ of each query."""
    _, _, M, v = system
    return (P @ M - v).norm(dim=1) / v.norm(dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_residual_that_is_recorded_is_that_of_the_dense_system(name, system):
    steps = []
    checked = {} if name == "conjugate_gradients" else {"check_every": 2}
    P = prepared(name, system, steps.append, iterations=3, **checked)
    assert {step.sequences for step in steps} == {8}, "all that carry a loss"
    assert steps[-1].iteration == 3
    torch.testing.assert_close(steps[-1].relative_residual, whole_residual(system, P), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["lissa", "astra"])
def test_without_checks_residuals_are_those_of_the_batches(name, system):
    steps = []
    prepared(name, system, steps.append, iterations=4, batch=2)
    assert {step.sequences for step in steps} == {2}
    assert [step.passes for step in steps] == [0.0, 0.25, 0.5, 0.75][: len(steps)]


@pytest.mark.parametrize("name", NAMES)
def test_a_query_that_is_near_enough_stops_early(name, system):
    checked = {} if name == "conjugate_gradients" else {"check_every": 1}
    steps = []
    P = prepared(name, system, steps.append, iterations=40, stop_below=0.7, **checked)
    assert steps[-1].iteration < 40
    assert (whole_residual(system, P) <= 0.7).all()


@pytest.mark.parametrize(("name", "batch"), [("conjugate_gradients", 8), ("lissa", 2), ("astra", 2)])
def test_a_budget_of_passes_says_how_many_iterations_there_are(name, batch, system):
    steps = []
    given = {} if name == "conjugate_gradients" else {"batch": batch, "check_every": 100}
    P = prepared(name, system, steps.append, budget_passes=2.5, **given)
    iterations = int(2.5 * 8 / batch)
    assert steps[-1].iteration == iterations
    assert steps[-1].passes <= 2.5
    given.pop("check_every", None)
    torch.testing.assert_close(P, prepared(name, system, iterations=iterations, **given), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"iterations": 3, "budget_passes": 2.0}, "either `iterations` or `budget_passes`"),
        ({"stop_below": 0.1}, "`stop_below` needs `check_every`"),
        ({"steps": 3}, "Extra inputs are not permitted"),
        ({"iterations": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options, problem):
    with pytest.raises(ValidationError, match=problem):
        attribution_methods()["astra"].options(**options)


@pytest.mark.parametrize("checked", [{}, {"check_every": 2}], ids=["no checks", "checks"])
@pytest.mark.parametrize("name", NAMES)
def test_the_passes_that_it_declares_are_those_that_it_takes(name, checked, system, monkeypatch):
    """Counted are sequences times vectors of every product."""
    taken = []
    product = MethodContext.gauss_newton

    def counting(self, V, shards):
        held = list(shards)
        taken.append(sum(map(len, held)) * len(next(iter(V.values()))))
        return product(self, V, held)

    monkeypatch.setattr(MethodContext, "gauss_newton", counting)
    method = attribution_methods()[name]
    given = {"iterations": 3, **({} if name == "conjugate_gradients" else {"batch": 3, **checked})}
    prepared(name, system, **given)
    declared = method.passes(method.options(**given), 8)
    assert sum(taken) == declared.of_call + 2 * declared.of_query
