"""Arrays of uncompressed chunks, read block by block through memory maps and checked before they are returned.

A chunk's file holds its rows and then their CRC32C, as Zarr's codec writes it. In format 3 only the manifest held the
checksums.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from influence_assets.storage.artifacts.arrays import damage_of_array, open_array
from influence_assets.storage.artifacts.file_checks import damage_shown_by
from influence_assets.storage.artifacts.manifest import ArrayRecord

_PIECE_BYTES = 2**20
_TRAILER_BYTES = 4


@dataclass(frozen=True)
class MappedBlock:
    """Consecutive rows of a mapped array.

    Args:
        start: the first row's number.
        rows: [stop - start, *row shape], read-only, read from the disk on access.
    """

    start: int
    rows: npt.NDArray[Any]

    @property
    def stop(self) -> int:
        """One past the last row's number."""
        return self.start + len(self.rows)


@dataclass(frozen=True)
class MappedArray:
    """An array of uncompressed chunks that is read block by block through memory maps."""

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    logical_dtype: str | None
    rows_per_block: int
    chunk_crc32c: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[MappedBlock]:
        """Yield the chunks in the order of their rows, each after checking it.

        Args:
            start: chunks that end before this row are skipped.
            stop: chunks that begin at this row or later are skipped.

        Raises:
            DamagedError: a chunk is missing, cut off or not as it was written.
        """
        chunk_shape = (self.rows_per_block, *self.shape[1:])
        expected_bytes = math.prod(chunk_shape) * self.dtype.itemsize
        end = self.shape[0] if stop is None else min(stop, self.shape[0])
        if not expected_bytes:  # rows without columns have no file
            yield MappedBlock(0, np.empty(self.shape, self.dtype))
            return
        chunks = math.ceil(end / self.rows_per_block)
        for number in range(start // self.rows_per_block, chunks):
            path = self.folder.joinpath("c", str(number), *("0" for _ in self.shape[1:]))
            problem = _damage_of_chunk(path, expected_bytes, self.chunk_crc32c[number] if self.chunk_crc32c else None)
            if problem is not None:
                raise damage_of_array(self.folder, problem, path)
            rows = np.memmap(path, dtype=self.dtype, mode="r", shape=chunk_shape)
            first = number * self.rows_per_block
            yield MappedBlock(first, rows[: self.shape[0] - first])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows from `start` up to, but not including, `stop` into memory.

        Raises:
            DamagedError: as for `blocks`.
        """
        parts = [np.empty((0, *self.shape[1:]), self.dtype)]
        parts += [block.rows[max(0, start - block.start) : stop - block.start] for block in self.blocks(start, stop)]
        return np.concatenate(parts)


def map_array(folder: Path, record: ArrayRecord) -> MappedArray:
    """Open a mappable array; no block is read before it is needed."""
    array = open_array(folder)
    dtype = np.dtype(record.dtype).newbyteorder("<")
    return MappedArray(folder, record.shape, dtype, record.logical_dtype, array.chunks[0], record.chunk_crc32c)


def _damage_of_chunk(path: Path, expected_bytes: int, recorded_crc32c: int | None) -> str | None:
    """Return what is wrong with a chunk, as a clause, or None.

    The file is read, not mapped: a bad sector then raises an error, where accessing a map would kill the process.
    """
    trailer_bytes = 0 if recorded_crc32c is not None else _TRAILER_BYTES
    try:
        if path.stat().st_size != expected_bytes + trailer_bytes:
            return "the chunk is cut off"
        with path.open("rb", buffering=0) as file:
            crc32c = _crc32c_of(file, expected_bytes)
            expected = recorded_crc32c if recorded_crc32c is not None else int.from_bytes(file.read(), "little")
    except OSError as error:
        return f"the chunk {damage_shown_by(error, path)}"
    return None if crc32c == expected else "the chunk is not as it was written"


def _crc32c_of(file: io.RawIOBase, size: int) -> int:
    crc32c = 0
    while size and (piece := file.read(min(size, _PIECE_BYTES))):
        size -= len(piece)
        crc32c = int(google_crc32c.extend(crc32c, piece))
    return crc32c
