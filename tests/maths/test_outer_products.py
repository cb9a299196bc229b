"""Outer products and their truncation, against dense matrices and the singular value decomposition of V itself."""

import pytest
import torch

from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature, LayerEigenvalues
from influence_assets.maths.outer_products import OuterProducts, truncated

D_OUT, D_IN, λ = 7, 5, 0.3


def made(rows, *, seed=0, d_out=D_OUT, d_in=D_IN):
    generator = torch.Generator().manual_seed(seed)
    L, R = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (d_out, d_in))
    return OuterProducts(L, R)


def spectrum(*, separable=False, seed=1, d_out=D_OUT, d_in=D_IN):
    """Λ over several orders of magnitude; where separable, Λ + λ is a product of a row's and a column's number."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.exp(2 * torch.randn(w, generator=generator, dtype=torch.float64)) for w in (d_out, d_in))
    if separable:
        return λ * (torch.outer(1 + rows, 1 + columns) - 1)
    return torch.outer(rows, columns) * torch.rand(d_out, d_in, generator=generator, dtype=torch.float64)


def test_they_are_the_sum_over_rows():
    V = made(4)
    expected = sum(torch.outer(left, right) for left, right in zip(V.L, V.R, strict=True))
    torch.testing.assert_close(V.sum(), expected)
    out = torch.empty(D_OUT, D_IN, dtype=torch.float64)
    assert V.sum(out=out) is out
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("rows", [3, 6, 40])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_where_the_weights_are_a_product_nothing_of_that_rank_is_nearer(rows, rank):
    """The error is what the singular values beyond the rank make of the scaled V, which is the least (Eckart-Young)."""
    V, Λ = made(rows), spectrum(separable=True)
    kept = truncated(V, LayerEigenvalues(Λ, λ), rank)
    assert len(kept) == min(rank, rows)
    values = torch.linalg.svdvals(V.sum() / (Λ + λ).sqrt())
    torch.testing.assert_close(LayerEigenvalues(Λ, λ).squared_norm(V.sum() - kept.sum()), values[rank:].square().sum())


def test_other_weights_are_approximated_and_beat_none():
    """On spectra as steep as a layer's, truncation without weights loses more in the norm that counts."""
    errors = []
    for seed in range(20):
        V, Λ = made(40, seed=seed, d_out=24, d_in=16), spectrum(seed=seed + 100, d_out=24, d_in=16)
        plain = truncated(V, LayerEigenvalues(torch.zeros_like(Λ), λ), 5)
        U, values, W = torch.linalg.svd(V.sum(), full_matrices=False)
        torch.testing.assert_close(plain.sum(), U[:, :5] * values[:5] @ W[:5])
        layer = LayerEigenvalues(Λ, λ)
        errors.append([float(layer.squared_norm(V.sum() - kept.sum())) for kept in (truncated(V, layer, 5), plain)])
    ours, without = torch.tensor(errors).T
    assert bool((ours < without).all())


@pytest.mark.parametrize(("rows", "rank"), [(3, 3), (3, 9), (40, 5), (40, 40), (1, 1)])
def test_a_rank_that_v_has_is_exact(rows, rank):
    V, Λ = made(rows), spectrum()
    kept = truncated(V, LayerEigenvalues(Λ, λ), rank)
    torch.testing.assert_close(kept.sum(), V.sum(), rtol=1e-10, atol=1e-12)
    assert len(kept) <= min(rows, D_OUT, D_IN)


def test_the_result_has_the_dtype_of_v():
    V = made(6)
    single = OuterProducts(V.L.float(), V.R.float())
    kept = truncated(single, LayerEigenvalues(spectrum().float(), λ), 2)
    assert kept.L.dtype == kept.R.dtype == torch.float32
    expected = truncated(V, LayerEigenvalues(spectrum(), λ), 2).sum().float()
    torch.testing.assert_close(kept.sum(), expected, rtol=1e-3, atol=1e-4)


def test_the_norm_is_that_of_the_dense_damped_inverse():
    Q_S, Q_A = (torch.linalg.qr(torch.randn(w, w, dtype=torch.float64)).Q for w in (D_OUT, D_IN))
    Λ, V = spectrum(), made(4).sum()
    layer = LayerCurvature(Eigenbasis(Q_S, Q_A, torch.ones(D_OUT), torch.ones(D_IN)), Λ, λ)
    Q = torch.kron(Q_S, Q_A)
    G = Q @ torch.diag(Λ.flatten()) @ Q.T + λ * torch.eye(len(Q), dtype=torch.float64)
    v = layer.basis.rotate_back(V.clone()).flatten()
    torch.testing.assert_close(LayerEigenvalues(Λ, λ).squared_norm(V), v @ torch.linalg.solve(G, v))
