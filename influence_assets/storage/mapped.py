"""Arrays of raw chunks, read block by block through memory maps: each block is checked before it is handed out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from influence_assets.storage import files
from influence_assets.storage.arrays import damage_of_array, open_array
from influence_assets.storage.checksums import crc32c_of_file
from influence_assets.storage.manifest import ArrayRecord


@dataclass(frozen=True)
class MappedBlock:
    """Consecutive rows of a mapped array.

    Args:
        start: the first row's number.
        rows: [stop - start, *row shape], read-only, read from the disk as it is touched.
    """

    start: int
    rows: npt.NDArray[Any]

    @property
    def stop(self) -> int:
        """One past the last row's number."""
        return self.start + len(self.rows)


@dataclass(frozen=True)
class MappedArray:
    """An array of raw chunks, to be read block by block through memory maps."""

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    logical_dtype: str | None
    rows_per_block: int
    chunk_crc32c: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[MappedBlock]:
        """The chunks in the order of their rows, each read and checked before it is handed out.

        Args:
            start: chunks that end before this row are left out.
            stop: chunks that begin at this row or later are left out.

        Raises:
            DamagedError: a chunk is missing, cut off or not as it was written.
        """
        chunk_shape = (self.rows_per_block, *self.shape[1:])
        expected_bytes = math.prod(chunk_shape) * self.dtype.itemsize
        end = self.shape[0] if stop is None else min(stop, self.shape[0])
        chunks = math.ceil(end / self.rows_per_block) if expected_bytes else 0
        for number in range(start // self.rows_per_block, chunks):
            path = self.folder.joinpath("c", str(number), *("0" for _ in self.shape[1:]))
            problem = _damage_of_chunk(path, expected_bytes, self.chunk_crc32c[number])
            if problem is not None:
                raise damage_of_array(self.folder, problem, path)
            rows = np.memmap(path, dtype=self.dtype, mode="r", shape=chunk_shape)
            first = number * self.rows_per_block
            yield MappedBlock(first, rows[: self.shape[0] - first])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows start to stop (left out) in memory.

        Raises:
            DamagedError: as for `blocks`.
        """
        parts = [np.empty((0, *self.shape[1:]), self.dtype)]
        parts += [block.rows[max(0, start - block.start) : stop - block.start] for block in self.blocks(start, stop)]
        return np.concatenate(parts)


def map_array(folder: Path, record: ArrayRecord) -> MappedArray:
    """Describe a mappable array's blocks; nothing is read before a block is asked for."""
    array = open_array(folder)
    dtype = np.dtype(record.dtype).newbyteorder("<")
    return MappedArray(folder, record.shape, dtype, record.logical_dtype, array.chunks[0], record.chunk_crc32c)


def _damage_of_chunk(path: Path, expected_bytes: int, expected_crc32c: int) -> str | None:
    """What is wrong with a raw chunk, as a clause, or None."""
    try:
        crc32c, size = crc32c_of_file(path)
    except OSError as error:
        return f"the chunk {files.damage_told_by(error, path)}"
    if size != expected_bytes:
        return "the chunk is cut off"
    return None if crc32c == expected_crc32c else "the chunk is not as it was written"
