"""The encoding of sketches: one bit for each kept coordinate of a whitened gradient, and one scale for each sequence.

For the same number of bytes, products of a full-precision query with the signs of many coordinates agree far better
with exact scores than products with few coordinates in half precision or with random projections (figures in
docs/log.md).
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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
    return SignCodes(np.packbits(rows > 0, axis=1), _scales(squared_norms, _sums(rows)))


def _sums(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(np.abs(rows).sum(axis=1, dtype=np.float64))


def _scales(squared_norms: npt.NDArray[np.float64], sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.divide(squared_norms, sums, out=np.zeros(len(sums)), where=sums > 0).astype(np.float32)


class SignWriter:
    """Encodes whitened gradients that come in parts: sequences batch by batch, for one group of layers after another.

    What has come is in temporary files, since the signs of a large shard outweigh everything else.

    Args:
        sequences: number of sequences.
        width: number of coordinates over all groups.
        folder: where the files are; they have no name, and are gone when the process ends.
    """

    def __init__(self, sequences: int, width: int, folder: Path) -> None:
        self._sequences = sequences
        self._width = width
        self._folder = folder
        self._groups: list[tuple[IO[bytes], int]] = []
        self._squared_norms = np.zeros(sequences)
        self._sums = np.zeros(sequences)
        self._done = 0

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of all signs, [sequence, bytes]."""
        return self._sequences, -(-self._width // 8)

    def begin(self, width: int) -> None:
        """Begin a group of layers with this number of coordinates."""
        self._groups.append((tempfile.TemporaryFile(dir=self._folder), width))  # noqa: SIM115  # read in `codes`
        self._done = 0

    def add(self, rows: npt.NDArray[np.float32], squared_norms: npt.NDArray[np.float64]) -> None:
        """Add the next sequences of the group; arguments as in `encode`."""
        batch = slice(self._done, self._done + len(rows))
        self._groups[-1][0].write(np.packbits(rows > 0, axis=1).tobytes())
        self._squared_norms[batch] += squared_norms
        self._sums[batch] += _sums(rows)
        self._done = batch.stop

    def codes(self) -> Iterator[SignCodes]:
        """Yield the codes of the sequences in order, some at a time, and remove what was kept."""
        for file, _ in self._groups:
            file.seek(0)
        at_once = max(1, NUMBERS_AT_ONCE // max(1, self._width))
        for start in range(0, self._sequences, at_once):
            count = min(at_once, self._sequences - start)
            parts = [self._unpacked(file, width, count) for file, width in self._groups]
            signs = np.packbits(np.concatenate(parts, axis=1), axis=1)
            rows = slice(start, start + count)
            yield SignCodes(signs, _scales(self._squared_norms[rows], self._sums[rows]))
        for file, _ in self._groups:
            file.close()

    @staticmethod
    def _unpacked(file: IO[bytes], width: int, count: int) -> npt.NDArray[np.uint8]:
        bytes_of_row = -(-width // 8)
        packed = np.frombuffer(file.read(count * bytes_of_row), np.uint8).reshape(count, bytes_of_row)
        return np.unpackbits(packed, axis=1, count=width)


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
