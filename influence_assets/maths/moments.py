"""Mergeable statistics: a total and the number of things in it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


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


class Accumulator:
    """Sums one second moment in place over many batches: the only mutable thing in this package."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, moment: SecondMoment) -> None:
        """Add a batch; the first one is kept as the buffer."""
        if self._total is None:
            self._total = moment.total.clone()
        else:
            self._total.add_(moment.total)
        self._count += moment.count

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
