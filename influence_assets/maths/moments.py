"""Mergeable statistics: a total, and the number of tokens or sequences in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.block_diagonal import BlockDiagonal, block_widths

GRAM_TILE = 128
"""Columns in a tile of x xᵀ: at 1,024 columns 9/16 of the products are computed; narrower tiles are slower."""

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

    x xᵀ is symmetric, so only the tiles on and below the diagonal are multiplied, which is little more than half of the
    products for typical widths. Comparable libraries multiply all of them.

    Args:
        blocks: the number of blocks that each x is cut into; products of different blocks are not computed.
    """

    def __init__(self, blocks: int = 1) -> None:
        self._blocks = blocks
        self._totals: list[Tensor] = []
        self._count = 0

    def add(self, rows: Float[Tensor, "n width"]) -> None:
        """Add x xᵀ of each row."""
        widths = block_widths(rows.shape[1], self._blocks)
        if not self._totals:
            self._totals = [rows.new_zeros(width, width) for width in widths]
        for total, x in zip(self._totals, torch.split(rows, widths, dim=1), strict=True):
            for start in range(0, len(total), GRAM_TILE):
                stop = min(start + GRAM_TILE, len(total))
                total[start:stop, :stop].addmm_(x[:, start:stop].T, x[:, :stop])
        self._count += rows.shape[0]

    def moment(self) -> FactorMoment:
        """Return the moment of everything added so far, in the accumulator's own memory to avoid a copy.

        Raises:
            ValueError: nothing has been added.
        """
        if not self._totals:
            raise ValueError("no batch has been added")
        for total in self._totals:  # entries above the diagonal are written here before they are ever read
            total.tril_().add_(total.tril(-1).T)
        return factor_moment(self._totals, self._count)


class SquareAccumulator:
    """Sums X ∘ X in place over many batches of matrices."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, matrices: Float[Tensor, "n rows columns"], count: int | None = None) -> None:
        """Add the squared entries of each matrix.

        Args:
            matrices: the matrices.
            count: how many of them count, if some that are zero do not; None counts all.
        """
        if self._total is None:
            self._total = matrices.new_zeros(matrices.shape[1:])
        for X in matrices:  # reads each once, and allocates no array of squares
            self._total.addcmul_(X, X)
        self._count += len(matrices) if count is None else count

    def moment(self) -> SecondMoment[Tensor]:
        """Return the moment of everything added so far.

        Raises:
            ValueError: nothing has been added.
        """
        if self._total is None:
            raise ValueError("no batch has been added")
        return SecondMoment(self._total, self._count)


def merged(moments: Iterable[SecondMoment[Matrix]]) -> SecondMoment[Matrix]:
    """Return the sum of all moments, added in float64 in the given order.

    Moments are consumed one at a time, so that at most two are in memory.

    Raises:
        ValueError: there are no moments.
    """
    total, count = None, 0
    for moment in moments:
        if total is None:
            total = moment.total.to(dtype=torch.float64, copy=True)
        else:
            total += moment.total
        count += moment.count
    if total is None:
        raise ValueError("there is no moment to merge")
    return SecondMoment(total, count)
