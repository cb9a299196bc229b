"""Leading eigenvectors from one pass, against decompositions of whole matrices."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from influence_assets.maths import range_finder
from influence_assets.maths.range_finder import (
    RangeAccumulator,
    RangeFinder,
    gaussian_matrix,
    leading_eigenvectors,
)

WIDTH = 300


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_of_spectrum(eigenvalues, *, seed=0):
    """Rows whose x xᵀ sum to a matrix with these eigenvalues, and its eigenvectors."""
    Q = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed)).Q
    rows = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed + 1)).Q * eigenvalues.sqrt() @ Q.T
    return rows, Q


def power_law(exponent):
    return torch.arange(1, WIDTH + 1, dtype=torch.float64) ** -exponent


def sketched(rows, finder, batches=1):
    accumulator = RangeAccumulator(finder)
    for batch in rows.chunk(batches):
        accumulator.add(batch)
    return accumulator.sketch()


def absorbed(shards, finder):
    """The sketch of several shards, added up in float64."""
    total, of_shard = RangeAccumulator(finder, torch.float64), RangeAccumulator(finder)
    for rows in shards:
        of_shard.add(rows)
        total.absorb(of_shard)
        of_shard.clear()
        assert not of_shard.sketch().Y.total.any()
    return total.sketch()


def mixed(z):
    """SplitMix64's output function on Python's own integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def word(stream, number):
    return mixed((mixed(stream % 2**64) + number * 0x9E3779B97F4A7C15) % 2**64)


@pytest.mark.parametrize(("width", "columns", "seed"), [(5, 3, 0), (3, 2, -7), (4, 6, 2**62)])
def test_the_random_matrix_is_what_its_definition_says(width, columns, seed):
    stream = word(seed, width)
    expected = np.zeros((width, columns), np.float32)
    for row in range(width):
        for column in range(columns):
            place = column * width + row
            u, v = (((word(stream, 2 * place + which) >> 11) + 1) / 2**53 for which in (0, 1))
            expected[row, column] = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
    found = gaussian_matrix(width, columns, seed)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected.astype(np.float64), rtol=2e-7, atol=1e-12)
    assert torch.equal(found, found.float().double())


def test_the_random_matrix_is_normal_and_begins_with_that_of_fewer_columns():
    wide = gaussian_matrix(200, 300, 3)
    assert torch.equal(wide[:, :20], gaussian_matrix(200, 20, 3))
    assert stats.kstest(wide.flatten().numpy(), "norm").pvalue > 1e-3
    # WᵀW of independent columns; five standard errors of the largest of 45,000 entries off the diagonal.
    gram = (wide.T @ wide) / 200
    assert float((gram - torch.eye(300, dtype=torch.float64)).triu(1).abs().max()) < 5.5 / math.sqrt(200)
    assert not torch.equal(wide, gaussian_matrix(200, 300, 4))
    assert not torch.equal(wide[:199], gaussian_matrix(199, 300, 3))


def test_the_sketch_is_the_product_of_the_whole_matrix():
    finder = RangeFinder(WIDTH, 10, seed=5)
    assert not finder.is_whole
    assert finder.columns == 46
    rows = normal(70, WIDTH)
    found = sketched(rows, finder, batches=3)
    torch.testing.assert_close(found.Y.total, rows.T @ rows @ gaussian_matrix(WIDTH, 46, 5))
    assert float(found.trace.total) == pytest.approx(float((rows**2).sum()))
    assert found.Y.count == found.trace.count == 70


def test_sketches_of_shards_add_up():
    finder = RangeFinder(WIDTH, 10)
    rows = normal(70, WIDTH)
    whole = sketched(rows, finder)
    parts = absorbed(rows.split([20, 1, 49]), finder)
    torch.testing.assert_close(parts.Y.mean(), whole.Y.mean())
    torch.testing.assert_close(parts.trace.mean(), whole.trace.mean())
    total = RangeAccumulator(finder)
    total.absorb(RangeAccumulator(finder))
    with pytest.raises(ValueError, match="no batch"):
        total.sketch()


@pytest.mark.parametrize(("exponent", "energy"), [(1.0, 0.98), (1.5, 0.995), (2.0, 0.9995)])
def test_eigenvectors_of_power_laws_hold_nearly_the_most_energy(exponent, energy):
    """Of the energy that the true leading eigenvectors hold, and the eigenvalues found are never too large."""
    eigenvalues = power_law(exponent)
    rows, Q = rows_of_spectrum(eigenvalues)
    finder = RangeFinder(WIDTH, 32)
    assert not finder.is_whole
    found = leading_eigenvectors(sketched(rows, finder), finder)
    whole = Q * eigenvalues @ Q.T
    held = float(((whole @ found.U) * found.U).sum())
    assert energy < held / float(eigenvalues[:32].sum()) <= 1
    assert bool((found.eigenvalues * WIDTH <= eigenvalues[:32] * (1 + 1e-9)).all())
    assert bool((found.eigenvalues.diff() <= 0).all())
    assert found.trace * WIDTH == pytest.approx(float(eigenvalues.sum()))
    torch.testing.assert_close(found.U.T @ found.U, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_factor_of_lower_rank_than_the_sketch_is_recovered_exactly():
    eigenvalues = power_law(1.0)
    eigenvalues[40:] = 0
    rows, Q = rows_of_spectrum(eigenvalues)
    finder = RangeFinder(WIDTH, 32)
    found = leading_eigenvectors(sketched(rows, finder), finder)
    torch.testing.assert_close(found.eigenvalues * WIDTH, eigenvalues[:32], rtol=1e-8, atol=0)
    # Directions, not signs.
    torch.testing.assert_close(found.U @ found.U.T, Q[:, :32] @ Q[:, :32].T, rtol=0, atol=1e-6)
    assert found.energy() == pytest.approx(float(eigenvalues[:32].sum() / eigenvalues.sum()), rel=1e-8)


def test_a_factor_of_lower_rank_than_is_kept_still_has_orthonormal_eigenvectors():
    rows = normal(4, WIDTH)
    finder = RangeFinder(WIDTH, 32)
    found = leading_eigenvectors(sketched(rows, finder), finder)
    torch.testing.assert_close(found.U.T @ found.U, torch.eye(32, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.eigenvalues[:4].sum(), (rows**2).sum() / 4, rtol=1e-9, atol=0)
    assert float(found.eigenvalues[4:].max()) < 1e-9 * float(found.eigenvalues[0])
    assert found.energy() == pytest.approx(1)


def test_sums_in_single_precision_give_nearly_the_same_subspace():
    """With an eigenvalue a thousand times the others, as activations have."""
    eigenvalues = power_law(1.0)
    eigenvalues[0] = 1000
    rows, Q = rows_of_spectrum(eigenvalues)
    finder = RangeFinder(WIDTH, 16)
    exact, rounded = (leading_eigenvectors(sketched(x, finder, batches=7), finder) for x in (rows, rows.float()))
    assert rounded.U.dtype == torch.float64
    torch.testing.assert_close(rounded.U.T @ rounded.U, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-10)
    whole = Q * eigenvalues @ Q.T
    held = [float(((whole @ found.U) * found.U).sum()) - 1000 for found in (exact, rounded)]
    assert held[1] == pytest.approx(held[0], rel=1e-3)


@pytest.mark.parametrize(("width", "rank"), [(9, 2), (30, 100), (64, 6)])
def test_narrow_factors_are_summed_whole_and_decomposed_exactly(width, rank):
    finder = RangeFinder(width, rank)
    assert finder.is_whole
    assert finder.columns == width
    rows = normal(50, width)
    sketch = absorbed(rows.split(20), finder)
    torch.testing.assert_close(sketch.Y.total, rows.T @ rows)
    torch.testing.assert_close(
        finder.test_matrix(torch.zeros(0, dtype=torch.float64)), torch.eye(width, dtype=torch.float64)
    )
    found = leading_eigenvectors(sketch, finder)
    kept = min(rank, width)
    expected = torch.linalg.eigvalsh(rows.T @ rows / 50).flip(0)[:kept]
    torch.testing.assert_close(found.eigenvalues, expected)
    torch.testing.assert_close(found.U.T @ (rows.T @ rows / 50) @ found.U, torch.diag(expected))
    assert found.U.shape == (width, kept)


@pytest.mark.parametrize("rank", [0, 16])
def test_a_layer_that_saw_nothing_has_orthonormal_eigenvectors_of_no_energy(rank):
    finder = RangeFinder(WIDTH, rank)
    sketch = sketched(torch.zeros(3, WIDTH), finder)
    found = leading_eigenvectors(sketch, finder)
    torch.testing.assert_close(found.U.T @ found.U, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-10)
    assert float(found.eigenvalues.sum()) == found.trace == 0
    assert found.energy() == 1


def test_what_overflowed_is_refused():
    for width in (9, WIDTH):
        finder = RangeFinder(width, 4)
        with pytest.raises(ValueError, match="not finite"):
            leading_eigenvectors(sketched(torch.full((3, width), math.inf), finder), finder)
    with pytest.raises(ValueError, match="no batch"):
        RangeAccumulator(RangeFinder(9, 4)).sketch()


def test_the_shift_is_raised_until_what_rounding_made_indefinite_can_be_factorised():
    """An eigenvalue of −10⁻³ that a first shift of 10⁻⁶ does not lift above 0."""
    Q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    B = Q @ torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.5, 0.0, -1e-3], dtype=torch.float64)) @ Q.T
    eye = torch.eye(6, dtype=torch.float64)
    C, ν = range_finder._factorised(B, eye, torch.tensor(1e-6, dtype=torch.float64))
    assert 1e-3 <= float(ν) <= 1.01e-2
    torch.testing.assert_close(C.T @ C, B + ν * eye)
    with pytest.raises(ValueError, match="lost all precision"):
        range_finder._factorised(-eye, eye, torch.tensor(1e-30, dtype=torch.float64))
