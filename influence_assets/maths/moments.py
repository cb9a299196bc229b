"""Mergeable statistics: a total and the number of things in it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GRAM_BLOCK = 128
"""Columns in a block of x xᵀ: of 1,024 columns 9/16 of the products are made; narrower blocks multiply slower."""


@dataclass(frozen=True)
class SecondMoment:
    """An uncentred second moment that adds up over batches, shards and machines.

    Args:
        total: the sum, not yet divided by anything.
        count: the number of tokens or sequences that were summed.
    """

    total: Float[Tensor, "rows columns"]
    count: int

    def __add__(self, other: "SecondMoment") -> "SecondMoment":
        """The moment of both together."""
        return SecondMoment(self.total + other.total, self.count + other.count)

    def mean(self) -> Float[Tensor, "rows columns"]:
        """The expectation.

        Raises:
            ZeroDivisionError: nothing has been counted.
        """
        if self.count == 0:
            raise ZeroDivisionError("the mean of a moment that has counted nothing")
        return self.total / self.count


class GramAccumulator:
    """Sums Σ x xᵀ in place over many batches.

    x xᵀ is symmetric: only the blocks on and below the diagonal are multiplied, which for the widths that matter is
    little more than half of the products. Peers multiply all of them.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, rows: Float[Tensor, "n width"]) -> None:
        """Add x xᵀ of each row."""
        width = rows.shape[1]
        if self._total is None:
            self._total = rows.new_zeros(width, width)
        for start in range(0, width, GRAM_BLOCK):
            stop = min(start + GRAM_BLOCK, width)
            self._total[start:stop, :stop].addmm_(rows[:, start:stop].T, rows[:, :stop])
        self._count += rows.shape[0]

    def moment(self) -> SecondMoment:
        """What has been added so far.

        Raises:
            ValueError: nothing has been added.
        """
        if self._total is None:
            raise ValueError("no batch has been added")
        return SecondMoment(self._total.tril() + self._total.tril(-1).T, self._count)


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

    def moment(self) -> SecondMoment:
        """What has been added so far.

        Raises:
            ValueError: nothing has been added.
        """
        if self._total is None:
            raise ValueError("no batch has been added")
        return SecondMoment(self._total, self._count)


def merged(moments: "list[SecondMoment]") -> SecondMoment:
    """The moment of all together, summed in float64 in the order given, so that it does not depend on who came first.

    Raises:
        ValueError: there are none.
    """
    if not moments:
        raise ValueError("there is no moment to merge")
    total = moments[0].total.to(torch.float64)
    for moment in moments[1:]:
        total = total + moment.total.to(torch.float64)
    return SecondMoment(total, sum(moment.count for moment in moments))
