"""Mergeable statistics: a total, and the number of tokens or sequences in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.block_diagonal import BlockDiagonal, block_widths
from influence_assets.maths.notation import device_of_sums
from influence_assets.maths.rows import Rows

GRAM_TILE = 128
"""Rows in a tile of x xᵀ: at 1,024 columns 9/16 of the products are computed; narrower tiles are slower."""

Matrix = TypeVar("Matrix", Tensor, BlockDiagonal)


@dataclass(frozen=True)
class SecondMoment(Generic[Matrix]):
    """An uncentred second moment that can be added over batches, shards and machines.

    Args:
        total: the sum [rows, columns], not yet divided by anything.
        count: the number of tokens or sequences that were summed.
    """

    total: Matrix
    count: int

    def mean(self) -> Matrix:
        """Return the expectation.

        Raises:
            ZeroDivisionError: nothing has been counted.
        """
        if self.count == 0:
            raise ZeroDivisionError("the mean of a moment that has counted nothing")
        return self.total / self.count


FactorMoment = SecondMoment[Tensor] | SecondMoment[BlockDiagonal]
"""A or S: a plain matrix, or its diagonal blocks."""


def factor_moment(blocks: Sequence[Tensor], count: int) -> FactorMoment:
    """Return the moment whose total has these diagonal blocks, one or several."""
    if len(blocks) == 1:
        return SecondMoment(blocks[0], count)
    return SecondMoment(BlockDiagonal(tuple(blocks)), count)


class GramAccumulator:
    """Sums Σ x xᵀ in place over many batches.

    x xᵀ is symmetric, so only the tiles on and below the diagonal are multiplied and kept, which is little more than
    half of them for typical widths. Comparable libraries multiply and keep all of them.

    Args:
        blocks: the number of blocks that each x is cut into; products of different blocks are not computed.
        dtype: the dtype of the sums; by default that of the first rows.
    """

    def __init__(self, blocks: int = 1, dtype: torch.dtype | None = None) -> None:
        self._blocks = blocks
        self._dtype = dtype
        self._tiles: list[list[Tensor]] = []
        self._count = 0

    def add(self, rows: Float[Tensor, "n width"], count: int | None = None) -> None:
        """Add x xᵀ of each row.

        Args:
            rows: the rows.
            count: what they count as, if not as one each.
        """
        self._begin(rows.shape[1], rows)
        widths = block_widths(rows.shape[1], self._blocks)
        for tiles, x in zip(self._tiles, torch.split(rows, widths, dim=1), strict=True):
            for tile, (start, stop) in zip(tiles, tile_rows(x.shape[1]), strict=True):
                tile.addmm_(x[:, start:stop].T, x[:, :stop])
        self._count += rows.shape[0] if count is None else count

    def of_width(self, width: int) -> "GramAccumulator":
        """Return this accumulator, or one with sums of zero if nothing has been added yet."""
        if self._tiles:
            return self
        zero = GramAccumulator(self._blocks, self._dtype)
        zero.add(torch.zeros(0, width, dtype=self._dtype))
        return zero

    def absorb(self, other: "GramAccumulator") -> None:
        """Add the sums of another accumulator of the same width and blocks.

        Sums in float32 over a shard are absorbed by sums in float64 over all shards, so that rounding does not grow
        with the number of shards.
        """
        if not other._tiles:
            return
        if not self._tiles:
            dtype = self._dtype or other._tiles[0][0].dtype
            device = device_of_sums(str(other._tiles[0][0].device)) if dtype == torch.float64 else None
            self._tiles = [
                [torch.zeros_like(tile, dtype=dtype, device=device) for tile in tiles] for tiles in other._tiles
            ]
        for own, tiles in zip(self._tiles, other._tiles, strict=True):
            for total, tile in zip(own, tiles, strict=True):
                total.add_(tile.to(total.device))
        self._count += other._count

    def clear(self) -> None:
        """Set all sums to zero, and use their memory again."""
        for tiles in self._tiles:
            for tile in tiles:
                tile.zero_()
        self._count = 0

    def moment(self) -> FactorMoment:
        """Return the moment of everything added so far.

        Raises:
            ValueError: nothing has been added.
        """
        if not self._tiles:
            raise ValueError("no batch has been added")
        return factor_moment([_symmetric(tiles) for tiles in self._tiles], self._count)

    def packed(self) -> Float[Tensor, " numbers"]:
        """Return all sums as one vector, from which `from_packed` restores the accumulator.

        Raises:
            ValueError: nothing has been added.
        """
        if not self._tiles:
            raise ValueError("no batch has been added")
        return torch.cat([tile.flatten() for tiles in self._tiles for tile in tiles])

    @classmethod
    def from_packed(cls, vector: Float[Tensor, " numbers"], width: int, blocks: int, count: int) -> "GramAccumulator":
        """Return the accumulator whose sums `packed` returned, in the memory of the vector.

        Raises:
            ValueError: the vector is not that of such an accumulator.
        """
        shapes = [(stop - start, stop) for part in block_widths(width, blocks) for start, stop in tile_rows(part)]
        if len(vector) != sum(rows * columns for rows, columns in shapes):
            raise ValueError(f"{len(vector)} numbers are not the tiles of {blocks} blocks of a factor of width {width}")
        tiles = iter(
            part.view(shape)
            for part, shape in zip(torch.split(vector, [r * c for r, c in shapes]), shapes, strict=True)
        )
        accumulator = cls(blocks, vector.dtype)
        accumulator._tiles = [[next(tiles) for _ in tile_rows(part)] for part in block_widths(width, blocks)]
        accumulator._count = count
        return accumulator

    def _begin(self, width: int, like: Tensor) -> None:
        if not self._tiles:
            self._tiles = [
                [like.new_zeros(stop - start, stop, dtype=self._dtype) for start, stop in tile_rows(part)]
                for part in block_widths(width, self._blocks)
            ]


def tile_rows(width: int) -> list[tuple[int, int]]:
    """Return the first and last rows of the tiles of a symmetric matrix; a tile has the columns up to its last row."""
    return [(start, min(start + GRAM_TILE, width)) for start in range(0, max(1, width), GRAM_TILE)]


def tile_numbers(width: int) -> int:
    """Return how many numbers the tiles of a symmetric matrix have."""
    return sum((stop - start) * stop for start, stop in tile_rows(width))


def _symmetric(tiles: Sequence[Tensor]) -> Float[Tensor, "width width"]:
    """Return the whole matrix of the tiles on and below its diagonal."""
    width = tiles[-1].shape[1]
    whole = tiles[0].new_zeros(width, width)
    for tile in tiles:
        stop = tile.shape[1]
        whole[stop - len(tile) : stop, :stop] = tile
    return whole.tril_().add_(whole.tril(-1).T)


class SquareAccumulator:
    """Sums X ∘ X in place over many batches of matrices.

    Args:
        dtype: the dtype of the sums; by default that of the first matrices.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype
        self._total: Tensor | None = None
        self._count = 0

    def of_shape(self, rows: int, columns: int) -> "SquareAccumulator":
        """Return this accumulator, or one with sums of zero if nothing has been added yet."""
        if self._total is not None:
            return self
        zero = SquareAccumulator(self._dtype)
        zero.add(torch.zeros(0, rows, columns, dtype=self._dtype))
        return zero

    def add(
        self, matrices: Float[Tensor, "n rows columns"], count: int | None = None, rows: Rows | None = None
    ) -> None:
        """Add the squared entries of each matrix.

        Args:
            matrices: the matrices.
            count: how many of them count, if some that are zero do not; None counts all.
            rows: the rows of larger matrices that are given; None: all.
        """
        if self._total is None:
            shape = matrices.shape[1] if rows is None else rows.whole, matrices.shape[2]
            self._total = matrices.new_zeros(shape, dtype=self._dtype)
        if rows is not None:
            rows.add_to(self._total, _sum_of_squares(matrices))
        elif self._total.dtype == matrices.dtype:
            for X in matrices:  # reads each once, and allocates no array of squares
                self._total.addcmul_(X, X)
        elif len(matrices):
            self._total += _sum_of_squares(matrices)
        self._count += len(matrices) if count is None else count

    def absorb(self, other: "SquareAccumulator") -> None:
        """Add the sums of another accumulator of the same shape, as in `GramAccumulator`."""
        if other._total is None:
            return
        if self._total is None:
            dtype = self._dtype or other._total.dtype
            device = device_of_sums(str(other._total.device)) if dtype == torch.float64 else None
            self._total = torch.zeros_like(other._total, dtype=dtype, device=device)
        self._total.add_(other._total.to(self._total.device))
        self._count += other._count

    def clear(self) -> None:
        """Set all sums to zero, and use their memory again."""
        if self._total is not None:
            self._total.zero_()
        self._count = 0

    def moment(self) -> SecondMoment[Tensor]:
        """Return the moment of everything added so far.

        Raises:
            ValueError: nothing has been added.
        """
        if self._total is None:
            raise ValueError("no batch has been added")
        return SecondMoment(self._total, self._count)

    @classmethod
    def of(cls, moment: SecondMoment[Tensor]) -> "SquareAccumulator":
        """Return an accumulator that begins with a moment, in its memory."""
        accumulator = cls(moment.total.dtype)
        accumulator._total, accumulator._count = moment.total, moment.count
        return accumulator


def _sum_of_squares(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "rows columns"]:
    squares = matrices.new_zeros(matrices.shape[1:])
    for X in matrices:  # reads each once, and allocates no array of squares
        squares.addcmul_(X, X)
    return squares
