"""Measures how far a growing corpus has moved from a frozen eigenbasis, from small statistics that add up.

Curvature is fitted once and frozen (a generation). The factors M = A and S that it was fitted on are diagonal in its
basis; what later shards add is not. With M′ = Qᵀ M Q the drift of a factor is

    ‖offdiag(M′)‖² / ‖M′‖²   (Frobenius; 0 for the totals that the basis was fitted on, 1 if the diagonal is zero),

and the drift of the corrected eigenvalues is Σ|p − q| / Σq, with p those of all shards and q the generation's.

For this a shard does not keep a d × d matrix but the exact diagonal of M′ and a linear sketch of the rest, 256 numbers.
Both add up over shards, so that the drift of thousands of shards is computed from thousands of short vectors.

**The sketch** is a count sketch (Charikar et al. 2002; its second moment: Thorup & Zhang 2004). Every entry below the
diagonal is given a random sign σ_ab and one of k bins, and a bin is the signed sum of its entries times √2. Its
square sum Y has

    E[Y] = ‖offdiag(M′)‖²,   Var[Y] ≤ 2/k · ‖offdiag(M′)‖⁴,

a relative standard error of at most √(2/k) = 8.8 %, whatever M′ is. k products uᵢᵀ M′ vᵢ with random signs, which have
the same size, have Var[Y] up to 8/k · ‖·‖⁴ where M′ is of low rank (17.7 %; figures in docs/log.md), and cost more.
The bins are (r_a + c_b) mod k with a random r for each row and c for each column: two entries share a bin with
probability 1/k, which is all that the variance asks of them. The signs are bits of one 64-bit hash for 64 entries.
Signs and bins depend on the width alone (`random_words.py`): sketches that were made years apart, by other versions or
on other devices, must still add up.

If a factor is in diagonal blocks, M′ is zero outside of them, like M and Q; its entries have the same positions, signs
and bins as in the whole matrix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from influence_assets.maths.block_diagonal import BlockDiagonal, blocks_of
from influence_assets.maths.random_words import random_words

SKETCH_WIDTH = 256
"""The length of the sketch of a rotated factor's off-diagonal entries."""

BINS = 32
"""The number of blocks along each side in which corrected eigenvalues are summed."""

_ENTRIES_AT_ONCE = 2**22
"""The number of a wide factor's entries that are processed at a time: 32 MiB in float64."""


@dataclass(frozen=True)
class RotatedFactor:
    """Small statistics of M′ = Qᵀ M Q, which can be added over shards like M itself.

    Args:
        diagonal: the exact diagonal of M′.
        sketch: a sketch of the off-diagonal entries; its square sum estimates their energy.
    """

    diagonal: Float[Tensor, "*shards width"]
    sketch: Float[Tensor, "*shards sketched"]

    def drift(self) -> Float[Tensor, "*shards"]:
        """Return ‖offdiag(M′)‖² / ‖M′‖², 0 to 1; 0 if nothing has been summed."""
        off = self.sketch.square().sum(-1)
        whole = self.diagonal.square().sum(-1) + off
        return torch.where(whole > 0, off / whole, 0.0)


def sketch_width(width: int) -> int:
    """Return the length of the sketch of a factor of this width; that of a narrow one holds all entries exactly."""
    return min(SKETCH_WIDTH, width * (width - 1) // 2)


def rotated_factor(
    M: Float[Tensor, "width width"] | BlockDiagonal, Q: Float[Tensor, "width width"] | BlockDiagonal
) -> RotatedFactor:
    """Return the diagonal and the sketch of Qᵀ M Q, in float64 on the host.

    The rotation, the only part that costs width³, runs on the device and in the dtype of M and Q.

    Args:
        M: a total of A or S.
        Q: its frozen eigenvectors in columns, with the same blocks.
    """
    return factor_statistics(Q.T @ M @ Q)


def factor_statistics(rotated: Float[Tensor, "width width"] | BlockDiagonal) -> RotatedFactor:
    """Return the diagonal and the sketch of a factor that is already rotated, in float64 on the host."""
    return RotatedFactor(rotated.diagonal().to("cpu", torch.float64), _offdiagonal_sketch(blocks_of(rotated)))


def block_sums(Λ: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "rows columns"]:
    """Return Λ summed over at most 32 × 32 blocks, in float64; a narrower side is not summed."""
    Λ = Λ.to("cpu", torch.float64)
    for side in (0, 1):
        width = Λ.shape[side]
        bins = torch.arange(width) * min(BINS, width) // width
        shape = list(Λ.shape)
        shape[side] = min(BINS, width)
        Λ = torch.zeros(shape, dtype=torch.float64).index_add_(side, bins, Λ)
    return Λ


def eigenvalue_drift(
    p: Float[Tensor, "*shards rows columns"], q: Float[Tensor, "rows columns"]
) -> Float[Tensor, "*shards"]:
    """Σ|p − q| / Σq over blocks of corrected eigenvalues; 0 if they equal the generation's.

    Summing blocks first ignores changes between neighbours, most of which are noise from few sequences.

    Args:
        p: block sums of E[Λ] over all present sequences.
        q: block sums of E[Λ] in the generation.
    """
    moved, whole = (p - q).abs().sum((-2, -1)), q.sum()
    # A generation may not have reached an expert: then whatever comes is all new.
    return torch.where(whole > 0, moved / whole, (moved > 0).to(moved))


def _offdiagonal_sketch(rotated: Sequence[Tensor]) -> Float[Tensor, " sketched"]:
    """Return signed sums of √2 · (entries below the diagonal), or the entries themselves if they are few enough.

    Args:
        rotated: the diagonal blocks of M′, outside of which it is zero.
    """
    width = sum(map(len, rotated))
    kept = sketch_width(width)
    if kept == width * (width - 1) // 2:
        below = torch.tril_indices(width, width, offset=-1)
        whole: Tensor = torch.block_diag(*rotated)  # type: ignore[no-untyped-call]
        return whole.to("cpu", torch.float64)[below[0], below[1]] * 2**0.5
    row_shift, column_bin = (
        _hash(width, stream, torch.arange(width)) % kept for stream in (1, 2)
    )  # % is never negative
    sketch = torch.zeros(kept, dtype=torch.float64)
    first = 0
    for block in rotated:
        columns = slice(first, first + len(block))
        for part in _parts(len(block)):
            rows = slice(first + part.start, first + part.stop)
            below = block[part].to("cpu", torch.float64).tril(part.start - 1)
            entries = below * _signs(width, rows, columns)
            by_column = torch.zeros(len(entries), kept, dtype=torch.float64)
            by_column.index_add_(1, column_bin[columns], entries)
            source = (
                torch.arange(kept) - row_shift[rows, None]
            ) % kept  # bin j of row a was bin j − r_a of its columns
            sketch += by_column.gather(1, source).sum(0)
        first = columns.stop
    return sketch * 2**0.5


def _parts(width: int) -> Iterator[slice]:
    """Yield the rows of a square matrix, few enough at a time."""
    rows = max(1, _ENTRIES_AT_ONCE // width)
    for start in range(0, width, rows):
        yield slice(start, min(start + rows, width))


def _signs(width: int, rows: slice, columns: slice) -> Float[Tensor, "rows columns"]:
    """Return ±1 for every entry of these rows and columns, one bit of the hash each."""
    words = -(-width // 64)
    first, last = columns.start // 64, -(-columns.stop // 64)
    numbers = torch.arange(rows.start, rows.stop)[:, None] * words + torch.arange(first, last)
    bits = (_hash(width, 0, numbers)[..., None] >> torch.arange(64)) & 1
    signs = (2 * bits - 1).flatten(1)[:, columns.start - 64 * first : columns.stop - 64 * first]
    return signs.to(torch.float64)


def _hash(width: int, stream: int, numbers: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Return a random signed word for each number of one of a width's streams (0: signs, 1: rows, 2: columns)."""
    return random_words(4 * width + stream, numbers)
