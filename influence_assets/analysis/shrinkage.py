"""Scores with their noise shrunk, as the catalogue's macros have it: small scores of many passages are mostly noise."""

import numpy as np
from numpy.typing import NDArray

from influence_assets.analysis.noise import noise_of

C = 10.0
"""The constant of the catalogue's macro `calibrated`."""

SIGMAS = 2.0


def sigmas(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation of each query's noise, [query, 1]; 0 where it is not known.

    Args:
        scores: float64 [query, passage].
    """
    return np.array([[noise_of(row).sigma or 0.0] for row in scores])


def calibrated(scores: NDArray[np.float64], c: float = C) -> NDArray[np.float64]:
    """Return S² / (S + cσ) of positive scores and 0 of others, [query, passage]."""
    positive = np.maximum(scores, 0.0)
    whole = positive + c * sigmas(scores)
    return positive * np.divide(positive, whole, out=np.zeros_like(positive), where=whole > 0)


def soft_threshold(scores: NDArray[np.float64], count: float = SIGMAS) -> NDArray[np.float64]:
    """Return max(S − count · σ, 0), [query, passage] (Donoho 1995)."""
    return np.maximum(scores - count * sigmas(scores), 0.0)
