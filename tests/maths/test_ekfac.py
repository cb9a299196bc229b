"""EK-FAC against dense curvature, in float64."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from influence_assets.capture.correction import eigenvalue_corrections
from influence_assets.capture.covariance import covariances
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import (
    Eigenbasis,
    LayerCurvature,
    damping,
    eigenbasis,
    sequence_gradients,
)
from influence_assets.maths.influence import layer_scores
from influence_assets.maths.moments import SecondMoment, SquareAccumulator
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.eigenbases import mean_squares, preconditioned, rotated, whole


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moment(x: Tensor, counted: Tensor) -> SecondMoment:
    rows = x[counted]
    return SecondMoment(rows.T @ rows, len(rows))


def dense(layer: LayerCurvature) -> Tensor:
    """(Q_S ⊗ Q_A) diag(vec Λ) (Q_S ⊗ Q_A)ᵀ for row-major vec."""
    Q = torch.kron(*whole(layer.basis))
    return Q @ torch.diag(layer.Λ.flatten()) @ Q.T


@pytest.fixture
def layer() -> LayerCurvature:
    a, Ds = normal(9, 5, 4, seed=1), normal(9, 5, 3, seed=2)
    everywhere = torch.ones(9, 5, dtype=torch.bool)
    basis = eigenbasis(second_moment(a, everywhere), second_moment(Ds, everywhere))
    Λ = mean_squares(rotated(basis, sequence_gradients(Ds, a)))
    return LayerCurvature(basis, Λ, damping(float(Λ.mean()), 0.1))


def test_inverse_solves_the_dense_damped_system(layer):
    V = normal(6, 3, 4, seed=3)
    expected = torch.linalg.solve(dense(layer) + layer.λ * torch.eye(12), V.flatten(1).T).T
    torch.testing.assert_close(preconditioned(layer, V).flatten(1), expected)


def test_whitened_inner_products_are_those_of_the_inverse(layer):
    V, G = normal(2, 3, 4, seed=3), normal(5, 3, 4, seed=4)
    white = [layer.whitening(torch.arange(12)).of_gradients(rotated(layer.basis, x)) for x in (V, G)]
    torch.testing.assert_close(white[0] @ white[1].T, preconditioned(layer, V).flatten(1) @ G.flatten(1).T)


def test_factors_recompose():
    rows = normal(20, 1, 6)
    A = second_moment(rows, torch.ones(20, 1, dtype=torch.bool))
    basis = eigenbasis(A, SecondMoment(torch.eye(2, dtype=torch.float64), 1))
    torch.testing.assert_close(
        basis.Q_A @ torch.diag(basis.eigenvalues_A) @ basis.Q_A.T, rows[:, 0].T @ rows[:, 0] / 20
    )
    torch.testing.assert_close(basis.Q_A.T @ basis.Q_A, torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize(("tokens", "d_out", "d_in"), [(1, 6, 5), (40, 3, 4)], ids=["tokens first", "gradient first"])
def test_both_orders_of_rotation_agree(tokens, d_out, d_in):
    basis = Eigenbasis(
        *(torch.linalg.qr(normal(n, n, seed=n))[0] for n in (d_out, d_in)), *(torch.ones(n) for n in (d_out, d_in))
    )
    Ds, a = normal(7, tokens, d_out), normal(7, tokens, d_in, seed=1)
    expected = torch.stack([basis.Q_S.T @ (Ds[s].T @ a[s]) @ basis.Q_A for s in range(7)])
    torch.testing.assert_close(basis.rotated_sequence_gradients(Ds, a), expected)


def test_kronecker_form_is_exact_for_independent_inputs_and_gradients_of_one_token():
    """Every input meets every output gradient once: E[vec(Ds aᵀ) vec(Ds aᵀ)ᵀ] = S ⊗ A, and Λ = Λ_S Λ_Aᵀ."""
    inputs, gradients = normal(5, 4), normal(6, 3, seed=1)
    pairs = list(itertools.product(range(5), range(6)))
    a = torch.stack([inputs[i] for i, _ in pairs])[:, None]
    Ds = torch.stack([gradients[j] for _, j in pairs])[:, None]
    everywhere = torch.ones(30, 1, dtype=torch.bool)
    basis = eigenbasis(second_moment(a, everywhere), second_moment(Ds, everywhere))
    G = sequence_gradients(Ds, a)
    Λ = mean_squares(rotated(basis, G))
    torch.testing.assert_close(Λ, torch.outer(basis.eigenvalues_S, basis.eigenvalues_A))
    truth = torch.einsum("nx,ny->xy", G.flatten(1), G.flatten(1)) / 30
    torch.testing.assert_close(dense(LayerCurvature(basis, Λ, 0.0)), truth)


def dense_gauss_newton(model, linear, sequences) -> Tensor:
    """E_sequence[Σ_t J_tᵀ (diag p − p pᵀ) J_t] of one Conv1D layer, by torch.func."""
    names = {id(p): n for n, p in model.named_parameters()}
    weight, bias = linear.module.weight, linear.module.bias
    total = torch.zeros(linear.parameters, linear.parameters, dtype=torch.float64)
    for row, length in zip(sequences.tokens, sequences.lengths, strict=True):
        tokens = torch.from_numpy(row[None, :length].astype("int64"))

        def logits(matrix, tokens=tokens):
            replaced = {names[id(weight)]: matrix[:, :-1].T, names[id(bias)]: matrix[:, -1]}
            return torch.func.functional_call(model, replaced, (tokens,), {"use_cache": False}).logits[0, :-1]

        matrix = linear.as_matrix({"weight": weight, "bias": bias})
        J = torch.func.jacrev(logits)(matrix).flatten(2)  # [token, word, parameter]
        p = logits(matrix).softmax(-1)
        H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        total += torch.einsum("twx,twv,tvy->xy", J, H, J)
    return total / len(sequences)


@pytest.mark.parametrize("index", [0, 1], ids=["c_fc", "c_proj"])
def test_ekfac_is_nearer_to_the_dense_gauss_newton_hessian_than_kfac_and_both_than_the_identity(index):
    model = cases.gpt2(width=4, layers=1)
    linear = select_modules(model, "mlp")[index]
    runner = Runner(model, (linear,), 64)
    sequences = cases.sequences(12)
    truth = dense_gauss_newton(model, linear, sequences)
    repeated = sequences.take(np.tile(np.arange(12), 150))
    many = cases.Sequences(repeated.tokens, repeated.lengths, np.arange(len(repeated)))  # fresh labels for each copy
    factors = covariances(runner, many, LabelSampler(0))[linear.name]
    basis = eigenbasis(factors.A, factors.S)
    Λ = eigenvalue_corrections(runner, many, {linear.name: basis}, LabelSampler(1))[linear.name].mean()
    tokens_per_sequence = factors.A.count / len(many)
    kfac = tokens_per_sequence * torch.kron(factors.S.mean(), factors.A.mean())
    identity = truth.diagonal().mean() * torch.eye(len(truth))
    errors = [
        float((truth - guess).norm() / truth.norm()) for guess in (dense(LayerCurvature(basis, Λ, 0.0)), kfac, identity)
    ]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("index", [0, 1], ids=["c_fc", "c_proj"])
def test_blocks_lie_between_the_whole_factors_and_the_identity(index):
    """Of the dense Gauss-Newton matrix in Frobenius norm; the same labels for both."""
    model = cases.gpt2(width=4, layers=1)
    linear = select_modules(model, "mlp")[index]
    runner = Runner(model, (linear,), 64)
    sequences = cases.sequences(12)
    truth = dense_gauss_newton(model, linear, sequences)
    repeated = sequences.take(np.tile(np.arange(12), 150))
    many = cases.Sequences(repeated.tokens, repeated.lengths, np.arange(len(repeated)))

    def error(blocks):
        factors = covariances(runner, many, LabelSampler(0), blocks=blocks)[linear.name]
        basis = eigenbasis(factors.A, factors.S)
        Λ = eigenvalue_corrections(runner, many, {linear.name: basis}, LabelSampler(1))[linear.name].mean()
        return float((truth - dense(LayerCurvature(basis, Λ, 0.0))).norm())

    identity = float((truth - truth.diagonal().mean() * torch.eye(len(truth))).norm())
    assert error(1) < error(2) < error(4) < identity


def test_large_damping_leaves_the_gradient_dot_product_and_no_curvature_divides_by_the_damping(layer):
    V, G = normal(2, 3, 4, seed=3), normal(5, 3, 4, seed=4)
    dot = layer_scores(V, G, 1)
    huge = LayerCurvature(layer.basis, layer.Λ, 1e12)
    torch.testing.assert_close(1e12 * layer_scores(preconditioned(huge, V), G, 1), dot)
    flat = LayerCurvature(layer.basis, torch.zeros_like(layer.Λ), 0.3)
    torch.testing.assert_close(layer_scores(preconditioned(flat, V), G, 1), dot / 0.3)


def test_ridge_regression_where_leaving_one_out_is_exact():
    """Squared loss ½(θx − y)², curvature E[x xᵀ]: the score is d f/dε, and leaving out is −score / (1 − leverage)."""
    n, λ = 30, 0.2
    X, y, query = normal(n, 4), normal(n, seed=1), normal(4, seed=2)

    def solve(weights: Tensor) -> Tensor:
        return torch.linalg.solve(X.T @ (weights[:, None] * X) + n * λ * torch.eye(4), X.T @ (weights * y))

    θ = solve(torch.ones(n, dtype=torch.float64))
    both_signs = torch.cat([X, X])[:, None]  # labels drawn with unit variance: gradients of +1 and −1 for every input
    signs = torch.cat([torch.ones(n), -torch.ones(n)]).double()[:, None, None]
    everywhere = torch.ones(2 * n, 1, dtype=torch.bool)
    basis = eigenbasis(second_moment(both_signs, everywhere), second_moment(signs, everywhere))
    Λ = mean_squares(rotated(basis, sequence_gradients(signs, both_signs)))
    P = preconditioned(LayerCurvature(basis, Λ, λ), query[None, None])
    G = ((X @ θ - y)[:, None] * X)[:, None]
    scores = layer_scores(P, G, n)[0]
    inverse = torch.linalg.inv(X.T @ X + n * λ * torch.eye(4))
    for z in range(n):
        weights = torch.ones(n, dtype=torch.float64)
        weights[z] = 0
        left_out = query @ solve(weights) - query @ θ
        torch.testing.assert_close(left_out, -scores[z] / (1 - X[z] @ inverse @ X[z]))
        weights[z] = 1 + 1e-6
        assert float((query @ solve(weights) - query @ θ) / 1e-6) == pytest.approx(float(scores[z]), rel=1e-3, abs=1e-7)


def test_merging_does_not_depend_on_the_split():
    rows = normal(24, 1, 5)
    everywhere = torch.ones(24, 1, dtype=torch.bool)
    whole = second_moment(rows, everywhere)
    assert whole.count == 24
    total = SquareAccumulator(torch.float64)
    for start in range(0, 24, 5):
        of_part = SquareAccumulator()
        of_part.add(rows[start : start + 5].float())
        total.absorb(of_part)
    assert total.moment().count == 24
    torch.testing.assert_close(total.moment().mean(), rows.square().mean(0), rtol=1e-6, atol=1e-6)


def test_nothing_to_average_or_to_damp_is_an_error():
    with pytest.raises(ZeroDivisionError):
        SecondMoment(torch.zeros(2, 2), 0).mean()
    with pytest.raises(ValueError, match="all zero"):
        damping(float(torch.zeros(2, 2).mean()), 0.1)
    with pytest.raises(ValueError, match="not finite"):
        eigenbasis(SecondMoment(torch.full((2, 2), torch.nan), 1), SecondMoment(torch.eye(2), 1))
