"""Curvature of low rank against dense matrices in full coordinates, in float64."""

import itertools

import pytest
import torch

from influence_assets.maths import split_tokens
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature, damping, sequence_gradients
from influence_assets.maths.factored import Factors
from influence_assets.maths.low_rank import LowRankBasis, LowRankCurvature, mean_eigenvalues
from influence_assets.maths.moments import SecondMoment
from influence_assets.maths.outer_products import OuterProducts, truncated
from influence_assets.maths.split_tokens import norm_order
from tests.eigenbases import preconditioned

D_OUT, D_IN, TOKENS, SEQUENCES = 5, 7, 4, 9
RANKS = [(0, 0), (2, 3), (3, 2), (0, 4), (5, 3), (2, 7), (5, 7)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(count=TOKENS, *, sequences=SEQUENCES, seed=0):
    """Ds and a of unequal directions; the last token of the first sequence is padding, whose Ds is zero."""
    Ds = normal(sequences, count, D_OUT, seed=seed) * torch.linspace(0.3, 2, D_OUT, dtype=torch.float64)
    a = normal(sequences, count, D_IN, seed=seed + 1) * torch.linspace(2, 0.1, D_IN, dtype=torch.float64)
    Ds[0, -1] = 0
    return Ds, a


def whole_bases():
    """All eigenvectors: orthonormal matrices whose first columns are kept."""
    return torch.linalg.qr(normal(D_OUT, D_OUT, seed=3)).Q, torch.linalg.qr(normal(D_IN, D_IN, seed=4)).Q


def basis_of(r_S, r_A):
    Q_S, Q_A = whole_bases()
    eigenvalues = torch.ones(D_OUT, dtype=torch.float64), torch.ones(D_IN, dtype=torch.float64)
    return LowRankBasis(Q_S, Q_A, *eigenvalues, float(D_OUT), float(D_IN)).truncated(r_S, r_A)


def squared_norms(basis, Ds, a):
    return SecondMoment(basis.split(Ds, a).squared_norms().sum(0), len(a))


def fitted(r_S, r_A, rest="isotropic"):
    basis = basis_of(r_S, r_A)
    return LowRankCurvature.fitted(basis, squared_norms(basis, *tokens()), 0.1, rest)


def dense_eigenvalues(r_S, r_A):
    """One for each pair of eigenvectors, entry by entry: its own in U_S ⊗ U_A, elsewhere the mean of its part."""
    Q_S, Q_A = whole_bases()
    squares = torch.stack([(Q_S.T @ G @ Q_A) ** 2 for G in sequence_gradients(*tokens())]).mean(0)
    eigenvalues = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
    for i, j in itertools.product(range(D_OUT), range(D_IN)):
        rows = [i] if i < r_S else list(range(r_S, D_OUT))
        columns = [j] if j < r_A else list(range(r_A, D_IN))
        eigenvalues[i, j] = sum(squares[k, m] for k in rows for m in columns) / (len(rows) * len(columns))
    return eigenvalues


def dense_curvature(r_S, r_A):
    """(Q_S ⊗ Q_A) diag(vec Λ) (Q_S ⊗ Q_A)ᵀ for row-major vec."""
    Q = torch.kron(*whole_bases())
    return Q @ torch.diag(dense_eigenvalues(r_S, r_A).flatten()) @ Q.T


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_eigenvalues_are_means_over_their_parts_of_the_space(r_S, r_A):
    curvature, dense = fitted(r_S, r_A), dense_eigenvalues(r_S, r_A)
    for i, j in itertools.product(range(r_S + 1), range(r_A + 1)):
        expected = float(dense[i, j]) if i < D_OUT and j < D_IN else 0  # 0 where there is no rest
        assert float(curvature.Λ[i, j]) == pytest.approx(expected, rel=1e-10)
    assert curvature.λ == pytest.approx(0.1 * float(dense.mean()), rel=1e-12)


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_traces_agree(r_S, r_A):
    Ds, a = tokens()
    basis = basis_of(r_S, r_A)
    each = basis.split(Ds, a).squared_norms()
    torch.testing.assert_close(each.sum((1, 2)), sequence_gradients(Ds, a).square().sum((1, 2)))
    curvature = fitted(r_S, r_A)
    trace = float(sequence_gradients(Ds, a).square().sum()) / SEQUENCES
    assert float((curvature.Λ * basis.multiplicities).sum()) == pytest.approx(trace, rel=1e-12)
    assert float(basis.multiplicities.sum()) == D_OUT * D_IN


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_inverse_solves_the_dense_damped_system(r_S, r_A):
    curvature, V = fitted(r_S, r_A), normal(6, D_OUT, D_IN, seed=5)
    before = V.clone()
    damped = dense_curvature(r_S, r_A) + curvature.λ * torch.eye(D_OUT * D_IN, dtype=torch.float64)
    expected = torch.linalg.solve(damped, V.flatten(1).T).T.view_as(V)
    torch.testing.assert_close(curvature.precondition(V.clone()), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(V, before, rtol=0, atol=0)


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
@pytest.mark.parametrize("rest", ["isotropic", "dropped"])
def test_factors_are_preconditioned_like_their_product(r_S, r_A, rest):
    curvature, V = fitted(r_S, r_A, rest), Factors(normal(6, 2, D_OUT, seed=5), normal(6, 2, D_IN, seed=6))
    P = curvature.precondition_factors(V)
    torch.testing.assert_close(P.matrices(), curvature.precondition(V.matrices()), rtol=1e-10, atol=1e-10)
    assert P.rank == 2 + min(r_S, r_A)


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_what_is_added_to_the_scaled_gradient_has_low_rank(r_S, r_A):
    curvature, V = fitted(r_S, r_A), normal(1, D_OUT, D_IN, seed=5)
    added = curvature.precondition(V.clone()) - V / (curvature.Λ[-1, -1] + curvature.λ)
    if r_S < D_OUT and r_A < D_IN:
        assert int(torch.linalg.matrix_rank(added[0], atol=1e-10)) <= r_S + r_A


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_a_dropped_rest_is_the_pseudo_inverse_in_the_subspace(r_S, r_A):
    curvature, V = fitted(r_S, r_A, "dropped"), normal(6, D_OUT, D_IN, seed=5)
    U = torch.kron(curvature.basis.U_S, curvature.basis.U_A)
    within = U.T @ dense_curvature(r_S, r_A) @ U + curvature.λ * torch.eye(r_S * r_A, dtype=torch.float64)
    expected = U @ torch.linalg.solve(within, U.T @ V.flatten(1).T)
    torch.testing.assert_close(curvature.precondition(V.clone()).flatten(1), expected.T, rtol=1e-10, atol=1e-10)


def test_full_rank_gives_ekfac_back():
    Q_S, Q_A = whole_bases()
    Λ = torch.stack([(Q_S.T @ G @ Q_A) ** 2 for G in sequence_gradients(*tokens())]).mean(0)
    basis = Eigenbasis(Q_S, Q_A, torch.ones(D_OUT, dtype=torch.float64), torch.ones(D_IN, dtype=torch.float64))
    ekfac = LayerCurvature(basis, Λ, damping(float(Λ.mean()), 0.1))
    curvature, V = fitted(D_OUT, D_IN), normal(6, D_OUT, D_IN, seed=5)
    assert curvature.λ == pytest.approx(ekfac.λ, rel=1e-12)
    torch.testing.assert_close(
        curvature.precondition(V.clone()), preconditioned(ekfac, V.clone()), rtol=1e-10, atol=1e-10
    )


def test_rank_zero_is_the_scaled_product_of_gradients():
    curvature, V = fitted(0, 0), normal(6, D_OUT, D_IN, seed=5)
    mean = float(sequence_gradients(*tokens()).square().mean())
    torch.testing.assert_close(curvature.precondition(V.clone()), V / (1.1 * mean), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_the_inverse_is_positive_definite(r_S, r_A):
    eye = torch.eye(D_OUT * D_IN, dtype=torch.float64)
    inverse = fitted(r_S, r_A).precondition(eye.clone().view(-1, D_OUT, D_IN)).flatten(1)
    torch.testing.assert_close(inverse, inverse.T)
    assert float(torch.linalg.eigvalsh(inverse).min()) > 0


@pytest.mark.parametrize("length", [1, TOKENS, 60])
@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_both_orders_of_norms_agree_with_the_gradients_own(r_S, r_A, length, monkeypatch):
    monkeypatch.setattr(split_tokens, "ENTRIES_AT_ONCE", 2 * SEQUENCES * D_IN)  # two rows at a time
    Ds, a = tokens(length)
    found = basis_of(r_S, r_A).split(Ds, a).squared_norms()
    Q_S, Q_A = whole_bases()
    for index, G in enumerate(sequence_gradients(Ds, a)):
        squares = (Q_S.T @ G @ Q_A) ** 2
        rows = [squares[i : i + 1] for i in range(r_S)] + [squares[r_S:]]
        expected = torch.tensor(
            [[float(row[:, j : j + 1 if j < r_A else None].sum()) for j in range(r_A + 1)] for row in rows],
            dtype=torch.float64,
        )
        torch.testing.assert_close(found[index], expected)


def test_the_order_of_norms_is_the_one_of_fewer_multiplications():
    for length in (1, 2, 3, 4, 10, 60):
        grams = length**2 * 7 + length**2 * 5 + length**2 * 2 + length**2 * 3
        entries = length * 5 * 7 + length * 2 * 7 + length * 5 * 3
        found = norm_order(length, (5, 7), (2, 3))
        assert (found.by_grams, found.multiplications) == (grams < entries, min(grams, entries))


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_shards_add_up(r_S, r_A):
    basis, (Ds, a) = basis_of(r_S, r_A), tokens()
    whole = squared_norms(basis, Ds, a)
    shards = [squared_norms(basis, Ds[rows], a[rows]) for rows in (slice(0, 2), slice(2, 3), slice(3, None))]
    parts = SecondMoment(sum(shard.total for shard in shards), sum(shard.count for shard in shards))
    torch.testing.assert_close(mean_eigenvalues(parts, basis), mean_eigenvalues(whole, basis))


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_whitened_norms_are_those_of_the_dense_inverse(r_S, r_A):
    curvature, (Ds, a) = fitted(r_S, r_A), tokens(sequences=4, seed=8)
    G = sequence_gradients(Ds, a)
    damped = dense_curvature(r_S, r_A) + curvature.λ * torch.eye(D_OUT * D_IN, dtype=torch.float64)
    expected = (torch.linalg.solve(damped, G.flatten(1).T).T * G.flatten(1)).sum(1)
    split = curvature.basis.split(Ds, a)
    torch.testing.assert_close(curvature.whitened_squared_norms(split.squared_norms()), expected)


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_whitened_inner_products_are_those_of_the_inverse_in_the_subspace(r_S, r_A):
    curvature = fitted(r_S, r_A)
    (Ds, a), (Ds_q, a_q) = tokens(sequences=4, seed=8), tokens(sequences=2, seed=11)
    dropped = LowRankCurvature(curvature.basis, curvature.Λ, curvature.λ, "dropped")
    expected = dropped.precondition(sequence_gradients(Ds_q, a_q)).flatten(1) @ sequence_gradients(Ds, a).flatten(1).T
    whitening = curvature.whitening(torch.arange(r_S * r_A))
    V, G = sequence_gradients(Ds_q, a_q), sequence_gradients(Ds, a)
    rows, norms = whitening.of_tokens(Ds, a, G)
    torch.testing.assert_close(whitening.of_gradients(V) @ rows.T, expected)
    torch.testing.assert_close(whitening.of_gradients(G), rows)
    torch.testing.assert_close(norms, torch.stack([curvature.squared_norm(g) for g in G]))


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_energies_are_those_of_the_dense_curvature(r_S, r_A):
    curvature = fitted(r_S, r_A)
    eigenvalues = torch.linalg.eigvalsh(dense_curvature(r_S, r_A))
    found = curvature.energies()
    assert len(found.coordinates) == curvature.coordinates == r_S * r_A
    total = float((eigenvalues / (eigenvalues + curvature.λ)).sum())
    assert float(found.coordinates.sum()) + found.others == pytest.approx(total)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_truncation_loses_no_more_in_the_norm_of_the_inverse_than_without_weights(r_S, r_A, rank):
    lost, plain = 0.0, 0.0
    for seed in range(20):
        curvature, (Ds, a) = fitted(r_S, r_A), tokens(6, sequences=1, seed=seed + 20)
        V = OuterProducts(Ds[0], a[0])
        kept = truncated(V, curvature, rank)
        assert len(kept) == rank
        lost += float(curvature.squared_norm(V.sum() - kept.sum()))
        U, values, WT = torch.linalg.svd(V.sum(), full_matrices=False)
        plain += float(curvature.squared_norm(V.sum() - U[:, :rank] * values[:rank] @ WT[:rank]))
    assert lost <= plain * (1 + 1e-9)


@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_truncation_to_the_rank_of_a_gradient_loses_nothing(r_S, r_A):
    curvature, (Ds, a) = fitted(r_S, r_A), tokens(3, sequences=1, seed=5)
    V = OuterProducts(Ds[0], a[0])
    torch.testing.assert_close(truncated(V, curvature, 3).sum(), V.sum())


@pytest.mark.parametrize("at_once", [1, 3 * TOKENS * 4, 10**9])
@pytest.mark.parametrize("rest", ["isotropic", "dropped"])
@pytest.mark.parametrize(("r_S", "r_A"), RANKS)
def test_inner_products_of_tokens_are_those_of_preconditioned_gradients(r_S, r_A, rest, at_once, monkeypatch):
    monkeypatch.setattr(split_tokens, "NUMBERS_AT_ONCE", at_once)
    curvature = fitted(r_S, r_A, rest)
    queries, sequences = tokens(3, sequences=5, seed=8), tokens(sequences=4, seed=11)
    P = curvature.precondition(sequence_gradients(*queries))
    found = curvature.inner_products(curvature.basis.split(*queries), curvature.basis.split(*sequences))
    torch.testing.assert_close(found, P.flatten(1) @ sequence_gradients(*sequences).flatten(1).T)
    no_queries = curvature.basis.split(*tokens(3, sequences=5, seed=8)).take(slice(0, 0))
    assert curvature.inner_products(no_queries, curvature.basis.split(*sequences)).shape == (0, 4)


def test_a_curvature_in_float64_preconditions_queries_in_single_precision():
    """Multiplied in float32, what leaves the strongest direction by rounding would be divided by λ alone."""
    curvature = fitted(2, 3)
    Λ = curvature.Λ.clone()
    Λ[0, 0] = 1e7 * curvature.λ
    strong = LowRankCurvature(curvature.basis, Λ, curvature.λ)
    u = torch.outer(curvature.basis.U_S[:, 0], curvature.basis.U_A[:, 0])
    V = (normal(6, D_OUT, D_IN, seed=5) + 100 * u).float()
    P = strong.precondition(V.clone())
    assert P.dtype == torch.float32
    exact = strong.precondition(V.double().clone())
    torch.testing.assert_close(P.double(), exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


def test_queries_that_are_split_in_float64_score_well_in_single_precision():
    curvature = fitted(2, 3)
    basis, Λ = curvature.basis, curvature.Λ.clone()
    Λ[0, 0] = 1e7 * curvature.λ
    strong = LowRankCurvature(basis, Λ, curvature.λ)
    Ds, a = basis.U_S[:, 0].expand(2, 1, D_OUT), basis.U_A[:, 0].expand(2, 1, D_IN)  # in the strongest direction
    expected = strong.inner_products(basis.split(Ds, a), basis.split(Ds, a))
    torch.testing.assert_close(expected, torch.full((2, 2), 1 / (1e7 + 1) / curvature.λ, dtype=torch.float64))
    single = strong.to("cpu", torch.float32)
    sequences = single.basis.split(Ds.float(), a.float())
    found = single.inner_products(basis.split(Ds, a).to(torch.float32), sequences)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_a_layer_without_gradients_is_refused():
    basis = basis_of(2, 3)
    with pytest.raises(ValueError, match="never affects the loss"):
        LowRankCurvature.fitted(basis, SecondMoment(torch.zeros(3, 4, dtype=torch.float64), 5), 0.1)


def test_placing_leaves_a_basis_as_it_is():
    curvature = fitted(2, 3)
    placed = curvature.to("cpu", torch.float32)
    assert placed.basis.U_S.dtype == placed.Λ.dtype == torch.float32
    torch.testing.assert_close(placed.basis.U_A.double(), curvature.basis.U_A, rtol=1e-6, atol=1e-6)
    assert (placed.λ, placed.rest, placed.basis.trace_A) == (curvature.λ, curvature.rest, curvature.basis.trace_A)
