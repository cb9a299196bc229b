"""The encoding of sketches: one bit for each kept coordinate of a whitened gradient, and one scale for each sequence.

For the same number of bytes, products of a full-precision query with the signs of many coordinates agree far better
with exact scores than products with few coordinates in half precision or with random projections (figures in
docs/log.md).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from influence_assets.maths.products import product

NUMBERS_AT_ONCE = 2**22
"""How many bits are unpacked to four-byte numbers at a time: as many as stay in a processor's cache."""


@dataclass(frozen=True)
class SignCodes:
    """Encoded sketches.

    Args:
        signs: uint8 [sequence, ⌈width / 8⌉], eight coordinates a byte, 1 where positive.
        scales: float32 [sequence].
    """

    signs: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]


def encode(rows: npt.NDArray[np.float32], squared_norms: npt.NDArray[np.float64]) -> SignCodes:
    """Return the codes of whitened gradients.

    The scale ‖w‖² / Σ|w_kept| makes the estimate of a gradient's product with itself exact.

    Args:
        rows: [sequence, width], the kept coordinates.
        squared_norms: [sequence], ‖w‖² over all coordinates, kept or not.
    """
    return SignCodes(np.packbits(rows > 0, axis=1), scales_of(squared_norms, sums_of_sizes(rows)))


def sums_of_sizes(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return Σ|w_kept| of each row."""
    return np.asarray(np.abs(rows).sum(axis=1, dtype=np.float64))


def scales_of(squared_norms: npt.NDArray[np.float64], sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return ‖w‖² / Σ|w_kept| of each gradient; 0 if it has none."""
    return np.divide(squared_norms, sums, out=np.zeros(len(sums)), where=sums > 0).astype(np.float32)


def estimate(questions: npt.NDArray[np.float32], codes: SignCodes) -> npt.NDArray[np.float32]:
    """Return Σ_i question_i · scale · sign_i of every question and sequence: float32 [question, sequence].

    Args:
        questions: [question, width] in full precision, as `query_sketches` makes them.
        codes: the training sequences' codes.
    """
    width = questions.shape[1]
    at_once = max(1, NUMBERS_AT_ONCE // max(1, width))
    in_full = torch.from_numpy(np.ascontiguousarray(questions))
    sums = in_full.sum(1, dtype=torch.float64)[:, None]
    estimates = np.empty((len(questions), len(codes.signs)), np.float32)
    buffer = torch.empty(at_once, width)
    for start in range(0, len(codes.signs), at_once):
        rows = slice(start, start + at_once)
        bits = torch.from_numpy(np.unpackbits(codes.signs[rows], axis=1, count=width))
        numbers = buffer[: len(bits)].copy_(bits)
        # Σ q·(2b − 1) = 2 Σ q·b − Σ q
        estimates[:, rows] = (2 * product(numbers, in_full.T).T.double() - sums).numpy() * codes.scales[rows]
    return estimates
