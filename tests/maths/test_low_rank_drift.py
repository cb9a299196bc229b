"""Drift from a subspace, against the whole matrix."""

import pytest
import torch

from influence_assets.maths.drift import RotatedFactor
from influence_assets.maths.low_rank_drift import SubspaceFactor, subspace_factor

WIDTH, RANK = 12, 5


def tokens(seed, count=30):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return x * torch.linspace(2, 0.2, WIDTH, dtype=torch.float64) + 0.5 * seed


def leading(M):
    return torch.linalg.eigh(M).eigenvectors.flip(1)[:, :RANK]


def measured(x, U):
    within = x @ U
    return subspace_factor(within.T @ within, x.square().sum())


def summed(parts):
    within = RotatedFactor(sum(p.within.diagonal for p in parts), sum(p.within.sketch for p in parts))
    return SubspaceFactor(within, sum(p.trace for p in parts))


def test_drift_inside_and_the_share_outside_are_those_of_the_whole_matrix():
    fitted, later = tokens(0), tokens(1)
    U = leading(fitted.T @ fitted)
    M = later.T @ later
    found = measured(later, U)
    inside = U.T @ M @ U
    off = inside - torch.diag(inside.diagonal())
    assert float(found.within.drift()) == pytest.approx(float(off.square().sum() / inside.square().sum()))
    rest = torch.eye(WIDTH, dtype=torch.float64) - U @ U.T
    assert float(found.outside()) == pytest.approx(float((rest @ M).trace() / M.trace()))


def test_what_the_subspace_was_fitted_on_has_not_drifted():
    x = tokens(0)
    eigenvalues = torch.linalg.eigvalsh(x.T @ x).flip(0)
    found = measured(x, leading(x.T @ x))
    assert float(found.within.drift()) < 1e-25
    assert float(found.outside()) == pytest.approx(1 - float(eigenvalues[:RANK].sum() / eigenvalues.sum()))


def test_statistics_of_shards_add_up():
    U = leading(tokens(0).T @ tokens(0))
    parts = [measured(tokens(seed), U) for seed in (1, 2, 3)]
    together = measured(torch.cat([tokens(seed) for seed in (1, 2, 3)]), U)
    added = summed(parts)
    assert float(added.within.drift()) == pytest.approx(float(together.within.drift()))
    assert float(added.outside()) == pytest.approx(float(together.outside()))


def test_of_nothing_nothing_is_outside_and_several_shards_are_measured_at_once():
    U = leading(tokens(0).T @ tokens(0))
    parts = [measured(tokens(1), U), measured(tokens(1)[:0], U)]
    stacked = SubspaceFactor(
        RotatedFactor(torch.stack([p.within.diagonal for p in parts]), torch.stack([p.within.sketch for p in parts])),
        torch.stack([p.trace for p in parts]),
    )
    assert stacked.outside().tolist() == [float(parts[0].outside()), 0]
    assert float(parts[1].within.drift()) == 0
