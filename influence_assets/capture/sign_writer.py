"""Signs of sketches that come group of layers after group of layers, gathered sequence by sequence."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from influence_assets.capture.sign_codes import NUMBERS_AT_ONCE, SignCodes, scales_of, sums_of_sizes


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
        self._sums[batch] += sums_of_sizes(rows)
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
            yield SignCodes(signs, scales_of(self._squared_norms[rows], self._sums[rows]))
        for file, _ in self._groups:
            file.close()

    @staticmethod
    def _unpacked(file: IO[bytes], width: int, count: int) -> npt.NDArray[np.uint8]:
        bytes_of_row = -(-width // 8)
        packed = np.frombuffer(file.read(count * bytes_of_row), np.uint8).reshape(count, bytes_of_row)
        return np.unpackbits(packed, axis=1, count=width)
