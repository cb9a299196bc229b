"""Drift from a frozen basis: the small statistics against dense matrices, and the sketch against its own definition."""

import math

import pytest
import torch

from influence_assets.maths import drift
from influence_assets.maths.drift import RotatedFactor, block_sums, eigenvalue_drift, rotated_factor, sketch_width


def total(width, *, seed=0, tokens=None):
    """A factor's total over random tokens of unequal directions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens or 3 * width, width, generator=generator, dtype=torch.float64)
    x = x @ torch.diag(torch.linspace(0.2, 2, width, dtype=torch.float64)) + 0.3 * seed
    return x.T @ x


def basis_of(M):
    return torch.linalg.eigh(M).eigenvectors


def dense_energies(M, Q):
    """(on the diagonal, off it), entry by entry."""
    rotated = Q.T @ M @ Q
    width = len(M)
    off = sum(float(rotated[a, b]) ** 2 for a in range(width) for b in range(width) if a != b)
    return sum(float(rotated[a, a]) ** 2 for a in range(width)), off


def mixed(z):
    """SplitMix64's output function on Python's own integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def word(width, stream, number):
    return mixed((mixed(4 * width + stream) + number * 0x9E3779B97F4A7C15) % 2**64)


def signed(unsigned):
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


def sketch_by_definition(rotated):
    """Each entry below the diagonal into its own bin with its own sign."""
    width = len(rotated)
    bins = [0.0] * 256
    for a in range(width):
        for b in range(a):
            bit = word(width, 0, a * math.ceil(width / 64) + b // 64) >> (b % 64) & 1
            place = (signed(word(width, 1, a)) % 256 + signed(word(width, 2, b)) % 256) % 256
            bins[place] += (2 * bit - 1) * math.sqrt(2) * float(rotated[a, b])
    return bins


@pytest.mark.parametrize("width", [1, 2, 9, 23])
def test_narrow_factors_are_measured_exactly(width):
    M, Q = total(width, seed=1), basis_of(total(width))
    found = rotated_factor(M, Q)
    on, off = dense_energies(M, Q)
    assert float(found.diagonal.square().sum()) == pytest.approx(on, rel=1e-12)
    assert float(found.sketch.square().sum()) == pytest.approx(off, rel=1e-12)
    assert float(found.drift()) == pytest.approx(off / (on + off), rel=1e-12)
    assert len(found.sketch) == sketch_width(width) == width * (width - 1) // 2


@pytest.mark.parametrize("width", [24, 64, 130])
def test_the_sketch_is_what_its_definition_says(width, monkeypatch):
    monkeypatch.setattr(drift, "_ENTRIES_AT_ONCE", 7 * width)  # several blocks of rows, the last one shorter
    M, Q = total(width, seed=1), basis_of(total(width))
    found = rotated_factor(M, Q)
    rotated = Q.T @ M @ Q
    torch.testing.assert_close(found.diagonal, rotated.diagonal())
    expected = torch.tensor(sketch_by_definition(rotated), dtype=torch.float64)
    torch.testing.assert_close(found.sketch, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_a_basis_has_not_drifted_from_its_own_total():
    M = total(40)
    assert float(rotated_factor(M, basis_of(M)).drift()) < 1e-25
    assert float(rotated_factor(total(40, seed=1), basis_of(M)).drift()) > 1e-3


def summed(parts):
    """The statistics of several shards, added up as those of stored shards are."""
    return RotatedFactor(sum(part.diagonal for part in parts), sum(part.sketch for part in parts))


def test_statistics_of_shards_add_up():
    Q = basis_of(total(40))
    shards = [rotated_factor(total(40, seed=seed), Q) for seed in (1, 2, 3)]
    together = rotated_factor(sum(total(40, seed=seed) for seed in (1, 2, 3)), Q)
    added = summed(shards)
    torch.testing.assert_close(added.diagonal, together.diagonal)
    torch.testing.assert_close(added.sketch, together.sketch)


def test_totals_that_make_up_the_basis_cancel_off_the_diagonal():
    """Each part has drifted; their sum has not: squares must not be taken before the sum."""
    parts = [total(40, seed=seed) for seed in (1, 2)]
    Q = basis_of(parts[0] + parts[1])
    found = [rotated_factor(part, Q) for part in parts]
    assert min(float(part.drift()) for part in found) > 1e-3
    assert float(summed(found).drift()) < 1e-25


@pytest.mark.parametrize("rank", [1, 60])
def test_the_sketch_is_unbiased_and_as_exact_as_is_said(rank):
    """Renaming the axes of one matrix draws the signs and bins anew; its energy stays.

    Over 400 draws the mean is within four of its own standard errors, 4 · 8.8 % / 20; one draw's error of 8.8 % is
    known to 1/√(2·400) = 3.5 % of itself. Rank-one sketches uᵀMv would show 17 % at rank 1.
    """
    width, draws = 60, 400
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(width, rank, generator=generator, dtype=torch.float64)
    M = x @ x.T
    identity = torch.eye(width, dtype=torch.float64)
    _, off = dense_energies(M, identity)
    errors = []
    for _ in range(draws):
        renamed = torch.randperm(width, generator=generator)
        found = rotated_factor(M[renamed][:, renamed], identity)
        errors.append(float(found.sketch.square().sum()) / off - 1)
    promised = math.sqrt(2 / 256)
    assert abs(sum(errors) / draws) < 4 * promised / math.sqrt(draws)
    assert math.sqrt(sum(error**2 for error in errors) / draws) == pytest.approx(promised, rel=0.15)


def test_the_drift_of_a_wide_factor_is_near_the_dense_one():
    M, Q = total(200, seed=1), basis_of(total(200))
    on, off = dense_energies(M, Q)
    assert float(rotated_factor(M, Q).drift()) == pytest.approx(off / (on + off), rel=0.3)


def test_a_factor_in_single_precision_is_summed_in_double():
    M, Q = total(40).float(), basis_of(total(40)).float()
    found = rotated_factor(M, Q)
    assert found.diagonal.dtype == found.sketch.dtype == torch.float64
    assert float(found.drift()) < 1e-12


def test_drifts_of_several_shards_at_once_are_those_of_each():
    Q = basis_of(total(30))
    parts = [rotated_factor(total(30, seed=seed), Q) for seed in (1, 2)]
    nothing = RotatedFactor(torch.zeros(30, dtype=torch.float64), torch.zeros(256, dtype=torch.float64))
    stacked = RotatedFactor(
        torch.stack([part.diagonal for part in (*parts, nothing)]),
        torch.stack([part.sketch for part in (*parts, nothing)]),
    )
    expected = torch.stack([part.drift() for part in parts])
    torch.testing.assert_close(stacked.drift()[:2], expected)
    assert float(stacked.drift()[2]) == 0


@pytest.mark.parametrize("shape", [(5, 7), (32, 32), (33, 70), (8, 100)])
def test_blocks_hold_the_entries_of_neighbouring_indices(shape):
    Λ = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    rows, columns = (min(32, width) for width in shape)
    expected = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            expected[math.floor(i * rows / shape[0]), math.floor(j * columns / shape[1])] += float(Λ[i, j])
    assert int((expected > 0).sum()) == rows * columns
    torch.testing.assert_close(block_sums(Λ), expected)


def test_eigenvalue_drift_by_hand():
    q = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    p = torch.tensor([[5.0, 1.0], [1.0, 2.0]])
    assert float(eigenvalue_drift(p, q)) == pytest.approx(0.3)
    assert eigenvalue_drift(torch.stack([q, p, 2 * q]), q).tolist() == pytest.approx([0, 0.3, 1])
