"""The noise of a query's scores, as the catalogue's view `query_noise` has it, for scores that are in no table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_SCORES = 20
"""The noise of fewer scores is not known."""

GAUSSIAN_MAD = 0.6745
"""Median of |x - median x| of a Gaussian x with a standard deviation of 1."""


@dataclass(frozen=True)
class Noise:
    """How far scores scatter by chance, and how many stand out.

    Args:
        scores: the number n of finite scores.
        median: their median; None if there are none.
        sigma: the standard deviation of their noise; None if there are too few to know it.
        threshold: what a score must exceed to stand above the noise; None if the noise is not known.
        above: the number of scores that do; None if the noise is not known.
    """

    scores: int
    median: float | None
    sigma: float | None
    threshold: float | None
    above: int | None


def noise_of(scores: NDArray[np.float64]) -> Noise:
    """Return the noise of scores: σ = median |S - median S| / 0.6745, threshold max(median S, 0) + σ √(2 ln n).

    Of n independent Gaussian scores, 1/√(4π ln n) < 1 at most are expected above it (Donoho and Johnstone 1994).
    """
    finite = scores[np.isfinite(scores)]
    n = len(finite)
    median = float(np.median(finite)) if n else None
    if median is None or n < FEWEST_SCORES:
        return Noise(n, median, None, None, None)
    sigma = float(np.median(np.abs(finite - median))) / GAUSSIAN_MAD
    threshold = max(median, 0.0) + sigma * float(np.sqrt(2 * np.log(n)))
    return Noise(n, median, sigma, threshold, int(np.sum(finite > threshold)))
