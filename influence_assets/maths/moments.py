"""Mergeable statistics: a total and the number of things in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.block_diagonal import BlockDiagonal, block_widths

GRAM_TILE = 128
"""Columns in a tile of x xᵀ: of 1,024 columns 9/16 of the products are made; narrower tiles multiply slower."""

Matrix = TypeVar("Matrix", Tensor, BlockDiagonal)


@dataclass(frozen=True)
class SecondMoment(Generic[Matrix]):
    """An uncentred second moment that adds up over batches, shards and machines.

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

    x xᵀ is symmetric: only the tiles on and below the diagonal are multiplied, which for the widths that matter is
    little more than half of the products. Peers multiply all of them.

    Args:
        blocks: the rows are cut into so many; products of different blocks are left out.
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
        """Return what has been added so far, in the accumulator's own memory, so that a layer's total is held once.

        Raises:
            ValueError: nothing has been added.
        """
        if not self._totals:
            raise ValueError("no batch has been added")
        for total in self._totals:  # what lies above the diagonal is never read before it is written here
            total.tril_().add_(total.tril(-1).T)
        return factor_moment(self._totals, self._count)


class SquareAccumulator:
    """Sums X ∘ X in place over many batches of matrices."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, matrices: Float[Tensor, "n rows columns"]) -> None:
        """Add the squared entries of each matrix."""
        if self._total is None:
            self._total = torch.zeros_like(matrices[0])
        for X in matrices:  # one read of each, and no array of squares
            self._total.addcmul_(X, X)
        self._count += len(matrices)

    def moment(self) -> SecondMoment[Tensor]:
        """Return what has been added so far.

        Raises:
            ValueError: nothing has been added.
        """
        if self._total is None:
            raise ValueError("no batch has been added")
        return SecondMoment(self._total, self._count)


def merged(moments: Iterable[SecondMoment[Matrix]]) -> SecondMoment[Matrix]:
    """Return the sum of all moments, in float64 and in the order given, so that it does not depend on which came first.

    Moments are taken one at a time, so that no more than two are in memory.

    Raises:
        ValueError: there are none.
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
