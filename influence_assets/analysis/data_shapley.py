"""Data Shapley by truncated Monte Carlo: what each unit of the corpus adds to a model, averaged over orders of arrival.

The utility of a set of units is what a model says that is trained on it. Units arrive one after the other, in a random
order, and each is credited with what changes when it arrives; the mean over orders is its Shapley value (Ghorbani &
Zou 2019, arXiv 1904.02868, Algorithm 1). Values are linear in the utility, so that the same trainings give a value for
each query and each seed, and those of the sum of all queries are sums.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

ROW_WITHIN = 5
"""An order is cut off when more than so many of its utilities in a row are as good as that of everything."""

RECENT = 100
"""Permutations over which the means must have settled, and the fewest after which they can have."""

Outcomes = Float[np.ndarray, "seed query"]
"""The log-probability of each query, in nats, under the model of each seed."""

Utility = Callable[[frozenset[int]], Outcomes]
"""Returns the outcomes of the models that are trained on some units, given by their numbers."""


class Limits(NamedTuple):
    """When orders are cut off, and when no more of them are drawn.

    Args:
        tolerance: the share of the utility of everything within which an order's utilities must be to cut it off; 0:
            none is cut off unless utilities are equal.
        largest_change: the bound of `largest_recent_change`, below which no more orders are drawn.
        permutations: the most orders.
    """

    tolerance: float = 0.01
    largest_change: float = 0.05
    permutations: int = 1000


class ShapleyValues(NamedTuple):
    """The values of all units.

    Args:
        values: in nats; of each query they sum to `everything` − `nothing`, but for `cut_off`.
        standard_errors: of the values, from the spread over orders and that over seeds; NaN with a single seed.
        nothing: log-probabilities under the models before training, in nats, the mean over seeds.
        everything: under those trained on all units.
        cut_off: the part of `everything` − `nothing` that no unit is credited with because orders were cut off.
        permutations: how many orders were drawn.
        truncated_share: the share of the orders' places that were cut off.
        largest_change: `largest_recent_change` at the end; infinite after fewer than `RECENT` orders.
    """

    values: Float[np.ndarray, "query unit"]
    standard_errors: Float[np.ndarray, "query unit"]
    nothing: Float[np.ndarray, " query"]
    everything: Float[np.ndarray, " query"]
    cut_off: Float[np.ndarray, " query"]
    permutations: int
    truncated_share: float
    largest_change: float


@dataclass
class Remembered:
    """A utility that computes each set once, however many orders pass through it.

    Args:
        utility: the utility.
        known: what is known of it.
    """

    utility: Utility
    known: dict[frozenset[int], Outcomes] = field(default_factory=dict)

    def __call__(self, units: frozenset[int]) -> Outcomes:
        """Return the outcomes of a set of units."""
        if units not in self.known:
            self.known[units] = self.utility(units)
        return self.known[units]


def order_of_arrival(units: int, *, seed: int, number: int) -> Int[np.ndarray, " unit"]:
    """Return one random order of the units, a function of its number, so that a killed computation repeats it."""
    return np.random.default_rng([seed, number]).permutation(units)


def data_shapley(
    utility: Utility,
    units: int,
    *,
    seed: int,
    limits: Limits = Limits(),  # noqa: B008  # a tuple of numbers
    progress: Callable[[int, int], None] = lambda _done, _most: None,
) -> ShapleyValues:
    """Return the Shapley values of units by truncated Monte Carlo.

    An order begins with the utility of nothing, the models before training. It is cut off after more than `ROW_WITHIN`
    utilities in a row at which *every* query is within `limits.tolerance` of its log-probability under everything, not
    just their sum: whatever comes later is credited with nothing, and a query that it still changes would lose that.
    No more orders are drawn once `largest_recent_change` is below its bound.

    Args:
        utility: the outcomes of a set of units; not remembered here, see `Remembered`.
        units: the number of units.
        seed: seed of the orders.
        limits: when to stop.
        progress: called after each order with its number and the most.
    """
    nothing, everything = utility(frozenset()), utility(frozenset(range(units)))
    nearly = limits.tolerance * np.abs(everything.mean(0))
    total, squares = np.zeros((*nothing.shape, units)), np.zeros((nothing.shape[1], units))
    recent: list[Float[np.ndarray, " unit"]] = []
    change, drawn, truncated = np.inf, 0, 0
    while drawn < limits.permutations and not (drawn >= RECENT and change < limits.largest_change):
        added = np.zeros_like(total)
        before, within = nothing, 0
        arrived: frozenset[int] = frozenset()
        order = order_of_arrival(units, seed=seed, number=drawn)
        for place, unit in enumerate(map(int, order)):
            arrived |= {unit}
            after = everything if len(arrived) == units else utility(arrived)
            added[:, :, unit] = after - before
            before = after
            within = within + 1 if (np.abs((after - everything).mean(0)) <= nearly).all() else 0
            if within > ROW_WITHIN:
                truncated += units - 1 - place
                break
        drawn += 1
        total += added
        squares += added.mean(0) ** 2
        recent = [*recent, total.mean(0).sum(0) / drawn][-RECENT:]
        change = largest_recent_change(np.stack(recent))
        progress(drawn, limits.permutations)
    of_seeds = total / max(drawn, 1)
    values = of_seeds.mean(0)
    whole = (everything - nothing).mean(0)
    return ShapleyValues(
        values=values,
        standard_errors=_standard_errors(of_seeds, squares, drawn),
        nothing=nothing.mean(0),
        everything=everything.mean(0),
        cut_off=whole - values.sum(-1),
        permutations=drawn,
        truncated_share=truncated / (drawn * units),
        largest_change=change,
    )


def largest_recent_change(means: Float[np.ndarray, "permutation unit"]) -> float:
    """Return the largest mean relative change, over the last `RECENT` means, from the last of them.

    Of each mean this is the mean over units of |mean − last| / |last| (Ghorbani & Zou 2019, and their published code).

    Args:
        means: the values of the sum of all queries after each of the last orders.

    Returns:
        Infinite with fewer than `RECENT` means.
    """
    if len(means) < RECENT:
        return float("inf")
    last = means[-1]
    return float((np.abs(means[-RECENT:] - last) / (np.abs(last) + 1e-12)).mean(-1).max())


def _standard_errors(
    of_seeds: Float[np.ndarray, "seed query unit"], squares: Float[np.ndarray, "query unit"], drawn: int
) -> Float[np.ndarray, "query unit"]:
    """Return the standard errors of the mean over seeds.

    All seeds have the same orders. So the spread over orders is that of the seeds' mean, and what seeds differ by comes
    on top of it.

    Args:
        of_seeds: the values of each seed.
        squares: Σ over orders of the squared mean over seeds of what a unit added.
        drawn: the number of orders.
    """
    seeds = len(of_seeds)
    if seeds < 2 or drawn < 2:  # a spread takes two
        return np.full(squares.shape, np.nan)
    variance = np.maximum(squares / drawn - of_seeds.mean(0) ** 2, 0.0) * drawn / (drawn - 1)
    result: np.ndarray = np.sqrt(variance / drawn + of_seeds.var(0, ddof=1) / seeds)
    return result
