"""Factors in diagonal blocks, against the whole matrices that they stand for, in float64."""

import pytest
import torch

from influence_assets.maths.block_diagonal import BlockDiagonal, block_widths, blocks_of
from influence_assets.maths.drift import rotated_factor
from influence_assets.maths.ekfac import (
    Eigenbasis,
    LayerCurvature,
    damping,
    eigenbasis,
    rotation_order,
    sequence_gradients,
)
from influence_assets.maths.moments import GramAccumulator, SecondMoment
from tests.eigenbases import mean_squares, preconditioned, rotated


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cut(M, blocks):
    """M with zeros outside of the blocks, entry by entry."""
    width = len(M)
    sizes = [width // blocks + (i < width % blocks) for i in range(blocks)]
    block_of = [i for i, size in enumerate(sizes) for _ in range(size)]
    kept = [[block_of[r] == block_of[c] for c in range(width)] for r in range(width)]
    return M * torch.tensor(kept)


def dense(M):
    return torch.block_diag(*blocks_of(M))


def gram(x, blocks):
    summed = GramAccumulator(blocks)
    summed.add(x[:3])
    summed.add(x[3:])
    return summed.moment()


@pytest.fixture
def layer():
    """Of 2 × 3 blocks: widths 5 = 3 + 2 and 7 = 3 + 2 + 2 would differ; both sides are cut into 3."""
    a, Ds = normal(9, 4, 7, seed=1), normal(9, 4, 5, seed=2)
    basis = eigenbasis(gram(a.flatten(0, 1), 3), gram(Ds.flatten(0, 1), 3))
    Λ = mean_squares(basis.rotated_sequence_gradients(Ds, a))
    return LayerCurvature(basis, Λ, damping(float(Λ.mean()), 0.1))


def test_widths_differ_by_at_most_one_and_none_is_empty():
    assert block_widths(7, 3) == [3, 2, 2]
    assert block_widths(8, 2) == [4, 4]
    assert block_widths(8, 1) == [8]
    assert block_widths(2, 5) == [1, 1]


def test_products_are_those_of_the_whole_matrix():
    M = BlockDiagonal((normal(3, 3), normal(2, 2, seed=1)))
    whole = dense(M)
    X = normal(4, 6, 5, seed=2)
    torch.testing.assert_close(X @ M, X @ whole)
    torch.testing.assert_close(M @ X.mT, whole @ X.mT)
    torch.testing.assert_close(X[0, 0] @ M, X[0, 0] @ whole)
    torch.testing.assert_close(dense(M.T @ M), whole.T @ whole)
    torch.testing.assert_close(dense(M / 4), whole / 4)
    torch.testing.assert_close(M.diagonal(), whole.diagonal())
    assert len(M) == 5
    assert M.to(torch.float32).dtype == torch.float32


@pytest.mark.parametrize("width", [5, 7, 300])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_of_a_covariance_are_those_of_the_whole(width, blocks):
    x = normal(8, width)
    found = gram(x, blocks)
    torch.testing.assert_close(dense(found.total), cut(x.T @ x, blocks))
    assert found.count == 8
    assert len(blocks_of(found.total)) == blocks
    assert isinstance(found.total, torch.Tensor) is (blocks == 1)


def test_a_total_that_was_looked_at_goes_on_growing():
    x = normal(8, 7)
    summed = GramAccumulator(2)
    summed.add(x[:3])
    summed.moment()
    summed.add(x[3:])
    torch.testing.assert_close(dense(summed.moment().total), cut(x.T @ x, 2))


@pytest.mark.parametrize("width", [7, 300])
@pytest.mark.parametrize("blocks", [1, 3])
def test_totals_absorb_shards_block_by_block_and_leave_them_as_they_were(width, blocks):
    x = normal(9, width).float()
    totals, of_shard = GramAccumulator(blocks, torch.float64), GramAccumulator(blocks)
    for rows in (x[:4], x[4:]):
        of_shard.add(rows)
        before = dense(of_shard.moment().total)
        totals.absorb(of_shard)
        torch.testing.assert_close(dense(of_shard.moment().total), before, rtol=0, atol=0)
        of_shard.clear()
        assert not dense(of_shard.moment().total).any()
    found = totals.moment()
    assert found.count == 9
    assert dense(found.total).dtype == torch.float64
    torch.testing.assert_close(dense(found.total), cut(x.T.double() @ x.double(), blocks), rtol=1e-5, atol=1e-5)


def test_totals_in_float64_lose_nothing_of_many_shards():
    """In float32, a thousandth that is added to a total of a million is lost."""
    totals, of_shard = GramAccumulator(1, torch.float64), GramAccumulator(1)
    for value in [1000.0, *[0.03] * 100]:
        of_shard.add(torch.tensor([[value]]))
        totals.absorb(of_shard)
        of_shard.clear()
    assert float(totals.moment().total) == pytest.approx(1e6 + 100 * 0.0009, rel=1e-9)


def test_absorbing_nothing_changes_nothing():
    totals = GramAccumulator(2)
    totals.absorb(GramAccumulator(2))
    with pytest.raises(ValueError, match="no batch"):
        totals.moment()
    totals.add(normal(3, 7))
    before = dense(totals.moment().total)
    totals.absorb(GramAccumulator(2))
    torch.testing.assert_close(dense(totals.moment().total), before, rtol=0, atol=0)


@pytest.mark.parametrize("width", [1, 7, 128, 300])
@pytest.mark.parametrize("blocks", [1, 3])
def test_packed_totals_are_restored_and_go_on_growing(width, blocks):
    x = normal(9, width)
    first = GramAccumulator(blocks)
    first.add(x[:5])
    restored = GramAccumulator.from_packed(first.packed().clone(), width, blocks, 5)
    rest = GramAccumulator(blocks)
    rest.add(x[5:])
    restored.absorb(rest)
    assert restored.moment().count == 9
    torch.testing.assert_close(dense(restored.moment().total), cut(x.T @ x, min(blocks, width)))
    with pytest.raises(ValueError, match="are not the tiles"):
        GramAccumulator.from_packed(first.packed()[:-1], width, blocks, 5)
    with pytest.raises(ValueError, match="no batch"):
        GramAccumulator(blocks).packed()


def test_each_block_is_decomposed_by_itself(layer):
    x, y = normal(9, 4, 7, seed=1).flatten(0, 1), normal(9, 4, 5, seed=2).flatten(0, 1)
    for Q, eigenvalues, rows in (
        (layer.basis.Q_A, layer.basis.eigenvalues_A, x),
        (layer.basis.Q_S, layer.basis.eigenvalues_S, y),
    ):
        torch.testing.assert_close(dense(Q) @ torch.diag(eigenvalues) @ dense(Q).T, cut(rows.T @ rows, 3) / 36)
        torch.testing.assert_close(dense(Q).T @ dense(Q), torch.eye(len(Q), dtype=torch.float64))
        torch.testing.assert_close(dense(Q), cut(dense(Q), 3), rtol=0, atol=0)


def test_eigenvalues_and_the_inverse_are_those_of_the_dense_curvature(layer):
    a, Ds = normal(9, 4, 7, seed=1), normal(9, 4, 5, seed=2)
    Q = torch.kron(dense(layer.basis.Q_S), dense(layer.basis.Q_A))
    G = torch.stack([Ds[s].T @ a[s] for s in range(9)]).flatten(1)
    Λ = (G @ Q).square().mean(0)
    torch.testing.assert_close(layer.Λ.flatten(), Λ)
    V = normal(6, 5, 7, seed=3)
    damped = Q @ torch.diag(Λ) @ Q.T + 0.1 * Λ.mean() * torch.eye(35)
    torch.testing.assert_close(preconditioned(layer, V).flatten(1), torch.linalg.solve(damped, V.flatten(1).T).T)
    white = [layer.whitening(torch.arange(35)).of_gradients(rotated(layer.basis, x)) for x in (V, G.view(9, 5, 7))]
    torch.testing.assert_close(white[0] @ white[1].T, preconditioned(layer, V).flatten(1) @ G.T)


@pytest.mark.parametrize("tokens", [1, 40], ids=["tokens first", "gradient first"])
def test_both_orders_of_rotation_agree(layer, tokens):
    Ds, a = normal(3, tokens, 5), normal(3, tokens, 7, seed=1)
    expected = dense(layer.basis.Q_S).T @ sequence_gradients(Ds, a) @ dense(layer.basis.Q_A)
    torch.testing.assert_close(layer.basis.rotated_sequence_gradients(Ds, a), expected)


def test_rotations_are_counted_by_the_blocks_entries():
    assert rotation_order(2, 5, 7, blocks=3).multiplications == 2 * (4 + 4 + 1) + 2 * (9 + 4 + 4)
    assert rotation_order(40, 5, 7).multiplications == 7 * 25 + 5 * 49


@pytest.mark.parametrize("width", [9, 130])
def test_drift_is_that_of_the_whole_matrix_with_zeros_outside_the_blocks(width):
    fitted, later = normal(3 * width, width), normal(2 * width, width, seed=1) + 0.3
    Q = eigenbasis(gram(fitted, 3), SecondMoment(torch.eye(2), 1)).Q_A
    M = gram(later, 3).total
    found, whole = rotated_factor(M, Q), rotated_factor(dense(M), dense(Q))
    torch.testing.assert_close(found.diagonal, whole.diagonal)
    torch.testing.assert_close(found.sketch, whole.sketch)
    assert float(found.drift()) > 1e-3
    assert float(rotated_factor(gram(fitted, 3).total, Q).drift()) < 1e-20


def test_a_basis_knows_its_blocks_and_moves_as_one(layer):
    single = layer.to("cpu", torch.float32)
    assert {block.dtype for block in blocks_of(single.basis.Q_A)} == {torch.float32}
    assert (layer.basis.blocks, single.basis.blocks) == (3, 3)
    assert Eigenbasis(torch.eye(2), torch.eye(3), torch.ones(2), torch.ones(3)).blocks == 1


def test_nothing_was_added():
    with pytest.raises(ValueError, match="no batch"):
        GramAccumulator(2).moment()
