"""Zarr 3 arrays of an artifact: how they are laid out, written by a single writer, and checked when they are read."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.array_spec import ArrayConfigParams
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from influence_assets.errors import DamagedError
from influence_assets.storage.artifacts.file_checks import damage_shown_by
from influence_assets.storage.artifacts.manifest import ArrayRecord
from influence_assets.storage.disk_errors import writing

_CHUNK_BYTES = 4 * 2**20
_CHUNKS_PER_SHARD = 16
_MAPPABLE_CHUNK_BYTES = 128 * 2**20
_COMPRESSION_LEVEL = 3
_WRITE_EVERY_CHUNK: ArrayConfigParams = {"write_empty_chunks": True}
"""Chunks of zeros are written too, so that a missing chunk always means lost data."""


def write_array(
    folder: Path, values: npt.NDArray[Any], *, rows_per_chunk: int | None = None, logical_dtype: str | None = None
) -> ArrayRecord:
    """Write a whole array, compressed and with checksums, and in shards if it is large."""
    chunks = _chunk_shape(values.shape, values.dtype, rows_per_chunk)
    array = _create(folder, values.shape, values.dtype, chunks, logical_dtype)
    array[...] = values
    return ArrayRecord(
        folder=folder.name, shape=values.shape, dtype=values.dtype.name, logical_dtype=logical_dtype, mappable=False
    )


class RowWriter:
    """A writer that appends blocks of rows to an array and writes whole chunks (or shards) one after the other.

    An array must have only one writer: with several, Zarr would silently lose rows.
    """

    def __init__(self, folder: Path, array: zarr.Array[Any], rows_per_write: int, *, expected_rows: int | None) -> None:
        self._folder = folder
        self._array = array
        self._rows_per_write = rows_per_write
        self._expected_rows = expected_rows
        self._pending: npt.NDArray[Any] | None = None
        self._pending_rows = 0
        self._written_rows = 0
        self._closed = False

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return self._written_rows + self._pending_rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows appended so far."""
        return (self.rows, *self._array.shape[1:])

    def append(self, block: npt.NDArray[Any]) -> None:
        """Append rows.

        Args:
            block: [rows, *row shape], of exactly the array's dtype.

        Raises:
            ValueError: the block has another row shape or dtype, or more rows than the array has left.
        """
        if self._closed:
            raise ValueError("the array is closed")
        if block.shape[1:] != self._array.shape[1:] or block.dtype != self._array.dtype:
            expected = f"[rows, {', '.join(map(str, self._array.shape[1:]))}] of {self._array.dtype}"
            raise ValueError(f"expected {expected}, got {list(block.shape)} of {block.dtype}")
        if self._expected_rows is not None and self.rows + len(block) > self._expected_rows:
            raise ValueError(f"the array has {self._expected_rows} rows, got {self.rows + len(block)}")
        for start in range(0, len(block), self._rows_per_write):
            self._buffer(block[start : start + self._rows_per_write])

    def close(self) -> None:
        """Write the rows that are still in memory.

        Raises:
            ValueError: fewer rows were appended than the array has.
        """
        if self._closed:
            return
        self._flush()
        self._pending = None
        self._closed = True
        if self._expected_rows is not None and self._written_rows != self._expected_rows:
            raise ValueError(f"the array has {self._expected_rows} rows, got {self._written_rows}")

    def _buffer(self, block: npt.NDArray[Any]) -> None:
        """Collect rows in memory, and write them whenever there are `rows_per_write` of them."""
        if self._pending is None:
            self._pending = np.empty((self._rows_per_write, *block.shape[1:]), block.dtype)
        fitting = min(len(block), self._rows_per_write - self._pending_rows)
        self._pending[self._pending_rows : self._pending_rows + fitting] = block[:fitting]
        self._pending_rows += fitting
        if self._pending_rows == self._rows_per_write:
            self._flush()
        if fitting < len(block):
            self._buffer(block[fitting:])

    def _flush(self) -> None:
        if self._pending is None or not self._pending_rows:
            return
        stop = self._written_rows + self._pending_rows
        with writing(f"the array {self._folder.name!r}", self._folder.parent):
            if self._expected_rows is None:
                self._array.resize((stop, *self._array.shape[1:]))
            self._array[self._written_rows : stop] = self._pending[: self._pending_rows]
        self._written_rows = stop
        self._pending_rows = 0
        if self._written_rows == self._expected_rows:
            self._pending = None


def growing_writer(
    folder: Path, row_shape: tuple[int, ...], dtype: npt.DTypeLike, logical_dtype: str | None, *, sharded: bool = True
) -> RowWriter:
    """Return a writer for a compressed and checksummed array whose number of rows is not known yet."""
    dtype = np.dtype(dtype)
    chunks = _chunk_shape((2**62, *row_shape), dtype, None)
    rows_per_write = chunks[0] * (_CHUNKS_PER_SHARD if sharded else 1)
    shards = (rows_per_write, *chunks[1:]) if sharded else None
    array = _create(folder, (0, *row_shape), dtype, chunks, logical_dtype, shards=shards)
    return RowWriter(folder, array, rows_per_write, expected_rows=None)


def mappable_writer(folder: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, logical_dtype: str | None) -> RowWriter:
    """Return a writer for an array of uncompressed chunks that can be memory-mapped, each followed by its checksum.

    A chunk holds whole rows, 64 to 128 MiB of them unless the array is smaller.
    """
    dtype = np.dtype(dtype)
    row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
    chunks = max(1, math.ceil(shape[0] * row_bytes / _MAPPABLE_CHUNK_BYTES))
    rows_per_chunk = max(1, math.ceil(shape[0] / chunks))
    array = zarr.create_array(
        LocalStore(folder),
        shape=shape,
        dtype=dtype,
        chunks=(rows_per_chunk, *(max(1, width) for width in shape[1:])),
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=0,
        attributes=_attributes(logical_dtype),
        config=_WRITE_EVERY_CHUNK,
    )
    return RowWriter(folder, array, rows_per_chunk, expected_rows=shape[0])


def read_array(folder: Path, rows: slice | None = None) -> npt.NDArray[Any]:
    """Read an array, or some of its rows.

    Raises:
        DamagedError: a chunk is missing or damaged.
        StorageError: the array cannot be read for another reason.
    """
    array = open_array(folder)
    try:
        return np.asarray(array[...] if rows is None else array[rows])
    except OSError as error:
        raise damage_of_array(folder, f"a chunk {damage_shown_by(error, folder)}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise damage_of_array(folder, f"a chunk is not as it was written ({error})") from error


class _CompleteStore(LocalStore):
    """A read-only store in which a missing chunk is an error; Zarr itself would fill in zeros."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        content = await super().get(key, prototype, byte_range)
        if content is None and key.split("/", 1)[0] == "c":
            raise damage_of_array(self.root, "the chunk is missing", self.root / key)
        return content


def open_array(folder: Path) -> zarr.Array[Any]:
    """Open an array to read it.

    Raises:
        DamagedError: the array's description is damaged.
        StorageError: the array cannot be read for another reason.
    """
    try:
        return zarr.open_array(_CompleteStore(folder, read_only=True), mode="r")
    except OSError as error:
        raise damage_of_array(folder, f"the array {damage_shown_by(error, folder)}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise damage_of_array(folder, f"is not a readable array ({error})") from error


def damage_of_array(array: Path, problem: str, path: Path | None = None) -> DamagedError:
    """Return the error for a damaged array, which is two levels below its artifact, or for one of its files."""
    artifact = array.parent.parent
    return DamagedError(artifact, [(path or array).relative_to(artifact).as_posix()], problem)


def _create(
    folder: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    logical_dtype: str | None,
    *,
    shards: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """Create an array whose chunks are zstd-compressed, with a CRC32C that reveals any flipped bit on reading."""
    if shards is None and shape and shape[0] > chunks[0] * _CHUNKS_PER_SHARD:
        shards = (chunks[0] * _CHUNKS_PER_SHARD, *chunks[1:])
    return zarr.create_array(
        LocalStore(folder),
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        compressors=[ZstdCodec(level=_COMPRESSION_LEVEL), Crc32cCodec()],
        filters=None,
        fill_value=0,
        attributes=_attributes(logical_dtype),
        config=_WRITE_EVERY_CHUNK,
    )


def _chunk_shape(shape: tuple[int, ...], dtype: np.dtype[Any], rows: int | None) -> tuple[int, ...]:
    """Return a shape for chunks of about `_CHUNK_BYTES`; leading axes are cut first, so that rows stay whole."""
    chunks = [max(1, width) for width in shape]
    if rows is not None and chunks:
        chunks[0] = min(chunks[0], rows)
    for axis in range(len(chunks)):
        chunk_bytes = math.prod(chunks) * dtype.itemsize
        if chunk_bytes <= _CHUNK_BYTES or (axis == 0 and rows is not None):
            continue
        chunks[axis] = max(1, chunks[axis] * _CHUNK_BYTES // chunk_bytes)
    return tuple(chunks)


def _attributes(logical_dtype: str | None) -> dict[str, Any]:
    return {} if logical_dtype is None else {"logical_dtype": logical_dtype}
