"""Scores with their noise shrunk, as the catalogue's macros have it: small scores of many passages are mostly noise."""

import numpy as np
from numpy.typing import NDArray

from influence_assets.analysis.judging import calibration
from influence_assets.analysis.noise import noise_of

C = 10.0
"""The constant c of calibrated scores as long as there is none of the study's own."""

CONSTANTS = np.logspace(-1, 3, 81)
"""The constants that are tried, 12 % apart."""

FEWEST_QUESTIONS = 20
"""A constant is not fitted to fewer, which say too little together."""

SIGMAS = 2.0


def sigmas(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation of each query's noise, [query, 1]; 0 where it is not known.

    Args:
        scores: float64 [query, passage].
    """
    return np.array([[noise_of(row).sigma or 0.0] for row in scores])


def calibrated(scores: NDArray[np.float64], c: float = C) -> NDArray[np.float64]:
    """Return S² / (S + cσ) of positive scores and 0 of others, [query, passage]."""
    return _calibrated(scores, c * sigmas(scores))


def _calibrated(scores: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.maximum(scores, 0.0)
    whole = positive + noise
    return positive * np.divide(positive, whole, out=np.zeros_like(positive), where=whole > 0)


def soft_threshold(scores: NDArray[np.float64], count: float = SIGMAS) -> NDArray[np.float64]:
    """Return max(S − count · σ, 0), [query, passage] (Donoho 1995)."""
    return np.maximum(scores - count * sigmas(scores), 0.0)


def fitted_constant(
    scores: NDArray[np.float64], is_drawn: NDArray[np.bool_], measured: NDArray[np.float64]
) -> float | None:
    """Return the c whose scores explain most of the measured changes' variance as they are, in the mean over queries.

    A query of which less than nothing is explained counts as 0, or one whose answer hardly varies would outweigh all
    others.

    Args:
        scores: float64 [query, passage].
        is_drawn: [passage, subset], whether a subset has a passage.
        measured: the queries' log-probabilities under the models of the subsets, float64 [query, subset].

    Returns:
        One of `CONSTANTS`; None if fewer than `FEWEST_QUESTIONS` queries have scores above 0 and outcomes that differ,
        if no query's noise is known, if nothing is explained, or if the best is the first or last that is tried.
    """
    noise = sigmas(scores)
    if not noise.any():
        return None
    shares = []
    for c in map(float, CONSTANTS):
        line = calibration(_calibrated(scores, c * noise) @ is_drawn, measured)
        known = line.r_squared[np.isfinite(line.slope) & np.isfinite(line.r_squared)]
        shares.append(float(known.clip(0).mean()) if len(known) >= FEWEST_QUESTIONS else 0.0)
    best = int(np.argmax(shares))
    return float(CONSTANTS[best]) if shares[best] > 0 and 0 < best < len(CONSTANTS) - 1 else None


def cross_fitted(
    scores: NDArray[np.float64], is_drawn: NDArray[np.bool_], measured: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return calibrated scores [query, passage] for judging: each half of the queries with the other half's constant.

    Halves are every other query. Arguments are those of `fitted_constant`; where nothing can be fitted, c is `C`.
    """
    found = np.empty_like(scores)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - (half.start or 0), None, 2)
        found[half] = calibrated(scores[half], fitted_constant(scores[other], is_drawn, measured[other]) or C)
    return found
