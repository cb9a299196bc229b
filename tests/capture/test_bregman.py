"""Responses against the dense Gauss-Newton system, and minima against a plainly written objective."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from influence_assets.capture.bregman import ProximalBregman, as_parameters, parameters_of
from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scores
from influence_assets.maths.ekfac import LayerCurvature, damping, eigenbasis
from influence_assets.maths.lbfgs import Search
from influence_assets.methods.method import MethodContext, TrainingSequences
from influence_assets.methods.registry import attribution_methods
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.oracles import gradients as oracle
from tests.oracles.gauss_newton import dense_gauss_newton

N = 24


class System:
    """A tiny model with its curvature, a training set, and queries."""

    def __init__(self, sequences=N, scale=0.1, width=4):
        self.model, self.queries = cases.gpt2(width=width, layers=1), cases.queries(3)
        self.runner = Runner(self.model, select_modules(self.model, "mlp"), 5)
        self.training = cases.sequences(sequences, seed=1)
        factors = covariances(self.runner, self.training, None)
        self.bases = {name: eigenbasis(c.A, c.S) for name, c in factors.items()}
        corrections = eigenvalue_corrections(self.runner, self.training, self.bases, None)
        Λ = {name: m.mean() for name, m in corrections.items()}
        self.curvature = {
            name: LayerCurvature(basis, Λ[name], damping(float(Λ[name].mean()), scale))
            for name, basis in self.bases.items()
        }
        self.bregman = ProximalBregman(self.runner, self.curvature, self.training)

    def added(self, row):
        return self.training.take(np.array([row]))


@pytest.fixture(scope="module")
def system():
    return System()


def flat(by_layer, layers):
    return torch.cat([by_layer[layer.name].flatten(1) for layer in layers], 1)


def test_for_small_weights_it_is_exact_gauss_newton_influence():
    system = System(sequences=8, scale=0.5)
    layers = system.runner.modules
    λ = torch.cat([torch.full((m.parameters,), system.curvature[m.name].λ, dtype=torch.float64) for m in layers])
    damped = dense_gauss_newton(system.model, layers, [system.training]) + torch.diag(λ)
    f = flat(oracle.gradients(system.model, layers, system.queries, sign=+1)[0], layers)
    g = flat(oracle.gradients(system.model, layers, system.added(3), sign=-1)[0], layers)
    expected = -(f @ torch.linalg.solve(damped, g.T))[:, 0]
    ε = 2e-4
    search = Search(tolerance=1e-6, iterations=400, history=60)
    more, less = (system.bregman.response(system.added(3), [system.queries], sign * ε, search) for sign in (1, -1))
    assert max(more.relative_gradient, less.relative_gradient) <= 1e-6
    # What is of second order in ε cancels between a copy more and a copy less.
    found = (more.changes - less.changes) / (2 * ε)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def plain_objective(system, row, ε, kept):
    """The definition, one sequence at a time, as a function of the model's own parameters."""

    def spoken(sequences, index):
        tokens = torch.from_numpy(sequences.tokens[index, : sequences.lengths[index]].astype("int64"))
        return system.model(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1), tokens[1:]

    total = torch.zeros((), dtype=torch.float64)
    for index in range(N):
        logp, _ = spoken(system.training, index)
        said = kept["said"].setdefault(index, logp.detach())
        total = total + torch.nn.functional.kl_div(logp, said, reduction="sum", log_target=True) / N
    logp, following = spoken(system.training, row)
    total = total - ε * logp.gather(1, following[:, None]).sum()
    for layer in system.runner.modules:
        for name, p in layer.module.named_parameters():
            start = kept["weights"].setdefault((layer.name, name), p.detach().clone())
            total = total + system.curvature[layer.name].λ / 2 * (p - start).square().sum()
    return total


def test_where_it_stops_the_objective_is_flat_and_lower(system):
    """A whole copy more, which moves the model far enough for the objective to be no quadratic."""
    row, ε, kept = 5, 1 / N, {"said": {}, "weights": {}}
    before = plain_objective(system, row, ε, kept)
    minimum = system.bregman.minimum(system.added(row), ε, Search(1e-6, 300, 60))
    assert minimum.relative_gradient <= 1e-6
    parameters = list(parameters_of(system.runner.modules))
    with oracle.Unfrozen(system.runner.modules):
        first = torch.autograd.grad(plain_objective(system, row, ε, kept), parameters)
        with system.bregman._moved(minimum.x):
            after = plain_objective(system, row, ε, kept)
            last = torch.autograd.grad(after, parameters)
    norms = [float(torch.cat([g.flatten() for g in of]).norm()) for of in (first, last)]
    assert norms[1] / norms[0] == pytest.approx(minimum.relative_gradient, rel=1e-3)
    assert float((after - before).detach()) == pytest.approx(minimum.value, rel=1e-9)
    assert minimum.value < 0


def test_the_model_is_afterwards_as_it_was(system):
    before = {name: p.clone() for name, p in system.model.named_parameters()}
    said = system.bregman.response(system.added(0), [system.queries], 1 / N, Search(0.1))
    assert all(torch.equal(before[name], p) for name, p in system.model.named_parameters())
    assert not any(p.requires_grad for p in system.model.parameters())
    again = system.bregman.response(system.added(0), [system.queries], 1 / N, Search(0.1))
    np.testing.assert_array_equal(said.changes, again.changes)


def test_a_copy_of_a_query_helps_it(system):
    """The sign: the loss of what is added falls."""
    query = system.queries.take(np.array([1]))
    said = system.bregman.response(query, [system.queries], 1 / N, Search(0.1))
    assert said.changes[1] > 0
    less = system.bregman.response(query, [system.queries], -1 / N, Search(0.1))
    assert less.changes[1] < 0


@pytest.mark.slow
def test_influence_functions_agree_with_it_in_the_order_of_the_paper():
    """Bae et al. 2022, Table 2, and Grosse et al. 2023, Figure 2: with curvature more than without."""
    system = System(width=8, scale=0.3)
    context = MethodContext(system.runner, system.bases, system.curvature, TrainingSequences([lambda: system.training]))
    V = query_gradients(system.runner, system.queries, system.bases).layers
    P = {
        name: attribution_methods()[name].prepare({layer: v.clone() for layer, v in V.items()}, context)
        for name in ("gradient_dot", "ekfac", "conjugate_gradients")
    }
    found = scores(system.runner, system.training, P, N, system.bases)
    chosen, search = range(12), Search(1e-2)
    responses = np.stack(
        [system.bregman.response(system.added(row), [system.queries], 1 / N, search).changes for row in chosen], 1
    )
    agreement = {
        name: np.mean([pearsonr(of, said).statistic for of, said in zip(values[:, chosen], responses, strict=True)])
        for name, values in found.items()
    }
    assert agreement["gradient_dot"] < agreement["ekfac"] < agreement["conjugate_gradients"], agreement


ARCHITECTURES = {**cases.ARCHITECTURES, **cases.EXPERTS}


@pytest.mark.parametrize("modules", ["linear", "mlp+embedding"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_matrices_go_back_to_where_they_came_from(name, modules):
    model = ARCHITECTURES[name]()
    layers = select_modules(model, modules)
    for number, layer in enumerate(layers):
        generator = torch.Generator().manual_seed(number)
        matrix = torch.randn(layer.output_width, layer.input_width, dtype=torch.float64, generator=generator)
        placed = as_parameters(layer, matrix)
        own = {n: placed[p] for n, p in layer.module.named_parameters(recurse=False)}
        torch.testing.assert_close(layer.as_matrix(own), matrix, rtol=0, atol=0)
        assert sum(int((value != 0).sum()) for value in placed.values()) == matrix.numel()


def test_what_it_cannot_do_is_refused():
    system = System(sequences=3)
    nothing = cases.Sequences(system.training.tokens, np.ones(3, np.int32), system.training.keys)
    with pytest.raises(ValueError, match="carries a loss"):
        ProximalBregman(system.runner, system.curvature, nothing)
    system.model.float()
    with pytest.raises(ValueError, match="float64"):
        ProximalBregman(system.runner, system.curvature, system.training)
