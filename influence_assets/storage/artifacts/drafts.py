"""Drafts: artifacts that are still being written, in hidden folders that nobody reads yet."""

import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.io.plugins import register_io_source
from pydantic import JsonValue

from influence_assets.durable import files
from influence_assets.durable.names import safe_name
from influence_assets.storage.artifacts import arrays
from influence_assets.storage.artifacts.file_checks import record_and_sync
from influence_assets.storage.artifacts.manifest import ArrayRecord, ArtifactKey, Manifest, library_versions, sealed
from influence_assets.storage.artifacts.names import ARRAYS, MANIFEST
from influence_assets.storage.artifacts.peak_memory import PeakMemory
from influence_assets.storage.disk_errors import writing

_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Draft:
    """An artifact that is being written, as `ArtifactStore.write` yields it.

    Add arrays, tables, files and figures to it; leaving the block publishes them. Array names are free text, such as
    module names with dots; names of tables and folders are lowercase words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder_path = folder
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._cpu_started = time.process_time()
        self._peak_memory = PeakMemory()
        self._artifacts_sharing = 1
        self._arrays: dict[str, ArrayRecord] = {}
        self._writers: dict[str, arrays.RowWriter] = {}
        self._rows: dict[str, int] = {}
        self._summary: dict[str, JsonValue] = {}

    def array(
        self,
        name: str,
        values: npt.NDArray[Any],
        *,
        rows_per_chunk: int | None = None,
        logical_dtype: str | None = None,
    ) -> None:
        """Write a whole array, of any shape, compressed and with checksums.

        Args:
            name: free text, unique in the artifact.
            values: a numeric or boolean array.
            rows_per_chunk: how many rows are usually read together; by default, chunks have about 4 MiB.
            logical_dtype: the type that the bits encode where numpy lacks it (`bfloat16` in uint16).
        """
        folder = self._new_array(name)
        values = np.asarray(values)
        with self._writing(f"the array {name!r}"):
            self._arrays[name] = arrays.write_array(
                folder, values, rows_per_chunk=rows_per_chunk, logical_dtype=logical_dtype
            )

    def mappable_array(
        self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike, *, logical_dtype: str | None = None
    ) -> arrays.RowWriter:
        """Return a writer for an array of uncompressed chunks that can be memory-mapped.

        Append the rows in order, in blocks of any size. The draft closes the writer, which raises an error if rows are
        missing. One chunk, at most 128 MiB or one row, is held in memory.
        """
        folder = self._new_array(name)
        with self._writing(f"the array {name!r}"):
            writer = arrays.mappable_writer(folder, shape, dtype, logical_dtype)
        return self._register(name, writer, dtype, logical_dtype, mappable=True)

    def growing_array(
        self,
        name: str,
        row_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        logical_dtype: str | None = None,
        sharded: bool = True,
    ) -> arrays.RowWriter:
        """Return a writer for an array whose number of rows is not known yet.

        Append blocks of any size; the draft closes the writer. One shard, about 64 MiB, is held in memory.

        Args:
            name: as for `array`.
            row_shape: the shape of a row.
            dtype: the numbers' type.
            logical_dtype: as for `array`.
            sharded: whether chunks are written in shards; without them one chunk, about 4 MiB, is held in memory, for
                artifacts that write many arrays side by side.
        """
        folder = self._new_array(name)
        with self._writing(f"the array {name!r}"):
            writer = arrays.growing_writer(folder, row_shape, dtype, logical_dtype, sharded=sharded)
        return self._register(name, writer, dtype, logical_dtype, mappable=False)

    def table(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table as `<name>.parquet`."""
        path = self._new_table(name)
        with self._writing(f"the table {name!r}"):
            frame.write_parquet(path, compression="zstd")
        self._rows[name] = frame.height

    def table_from(self, name: str, frames: Iterable[pl.DataFrame], schema: pl.Schema) -> int:
        """Write a table from a stream of frames, with a few of them in memory at a time, and return its row count.

        Args:
            name: as for `table`.
            frames: each has exactly this schema, with columns in any order; errors of the iterator are raised here.
            schema: the columns and their types, which the table has even if there are no frames.

        Raises:
            polars.exceptions.SchemaError: a frame has other columns or types.
        """
        path = self._new_table(name)
        rows = 0

        def counted(
            columns: list[str] | None, _predicate: pl.Expr | None, _rows: int | None, _batch: int | None
        ) -> Iterator[pl.DataFrame]:
            nonlocal rows
            for frame in frames:
                if dict(frame.schema) != dict(schema):
                    raise pl.exceptions.SchemaError(f"{name}: expected {dict(schema)}, got {dict(frame.schema)}")
                rows += frame.height
                yield frame.select(columns or list(schema))

        register_io_source(counted, schema=dict(schema)).sink_parquet(path, compression="zstd")
        self._rows[name] = rows
        return rows

    def folder(self, name: str) -> Path:
        """Create a folder in the artifact for other kinds of files and return its path."""
        path = self.folder_path / self._plain(name)
        with self._writing(f"the folder {name!r}"):
            path.mkdir()
        return path

    def shares_its_cost_with(self, others: int) -> None:
        """Divide the time of this work evenly between this artifact and others that the same work produced."""
        self._artifacts_sharing = others + 1

    def summarise(self, **figures: Any) -> None:
        """Add figures for people to the manifest's summary: numbers, texts, and lists or mappings of them."""
        self._summary.update(json.loads(json.dumps(figures, default=_as_json)))

    def close(self, key: ArtifactKey, **other_fields: Any) -> Manifest:
        """Finish every array, write the manifest last, and sync everything to the disk.

        Args:
            key: the artifact that this draft becomes.
            other_fields: fields of the manifest that the draft does not know.

        Raises:
            StorageError: the disk cannot be written.
        """
        self._close_writers()
        with self._writing(f"the manifest of {key}"):
            return self._write_manifest(key, other_fields)

    def _write_manifest(self, key: ArtifactKey, other_fields: dict[str, Any]) -> Manifest:
        records = {
            path.relative_to(self.folder_path).as_posix(): record_and_sync(path)
            for path in files.files_below(self.folder_path)
        }
        manifest = Manifest(
            asset=key.asset,
            partition=key.partition,
            data_version=key.data_version,
            host=socket.gethostname(),
            started_at=self._started_at,
            seconds=(time.monotonic() - self._started) / self._artifacts_sharing,
            cpu_seconds=(time.process_time() - self._cpu_started) / self._artifacts_sharing,
            peak_memory_bytes=self._peak_memory.bytes(),
            bytes=sum(record.bytes for record in records.values()),
            rows=self._rows,
            arrays=self._arrays,
            files=records,
            summary=self._summary,
            libraries=dict(library_versions()),
            **other_fields,
        )
        path = self.folder_path / MANIFEST
        path.write_bytes(sealed(manifest))
        files.sync_file(path)
        for folder in files.folders_below(self.folder_path):
            files.sync_folder(folder)
        return manifest

    def _close_writers(self) -> None:
        for name, writer in self._writers.items():
            writer.close()
            self._arrays[name] = self._arrays[name].model_copy(update={"shape": writer.shape})
        self._writers.clear()

    def _new_array(self, name: str) -> Path:
        if name in self._arrays:
            raise ValueError(f"the artifact already has an array {name!r}")
        return self.folder_path / ARRAYS / safe_name(name)

    def _register(
        self, name: str, writer: arrays.RowWriter, dtype: npt.DTypeLike, logical_dtype: str | None, *, mappable: bool
    ) -> arrays.RowWriter:
        self._arrays[name] = ArrayRecord(
            folder=safe_name(name),
            shape=writer.shape,
            dtype=np.dtype(dtype).name,
            logical_dtype=logical_dtype,
            mappable=mappable,
        )
        self._writers[name] = writer
        return writer

    def _new_table(self, name: str) -> Path:
        if name in self._rows:
            raise ValueError(f"the artifact already has a table {name!r}")
        return self.folder_path / f"{self._plain(name)}.parquet"

    def _writing(self, what: str) -> AbstractContextManager[None]:
        return writing(what, self.folder_path.parent)

    def _plain(self, name: str) -> str:
        if not _PLAIN_NAME.fullmatch(name) or name == ARRAYS:
            raise ValueError(f"{name!r} cannot name a table or folder: use a lowercase word other than {ARRAYS!r}")
        return name


def _as_json(value: object) -> object:
    """Return the JSON value for a numpy value, a path or a time."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path | datetime):
        return str(value)
    raise TypeError(f"{value!r} cannot be written into a manifest's summary")
