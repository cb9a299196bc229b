"""An artifact while it is being written: a hidden folder that nobody reads yet."""

import json
import re
import resource
import socket
import sys
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
from influence_assets.storage.disk_errors import writing

_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Draft:
    """What `ArtifactStore.write` yields: put arrays, tables, files and figures in; leaving the block publishes them.

    Names of arrays are free text (module names with dots, say); names of tables and folders are lowercase words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder_path = folder
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._cpu_started = time.process_time()
        self._sharing = 1
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
            rows_per_chunk: rows that are usually read together; by default chunks of about 4 MiB.
            logical_dtype: what the bits mean where numpy lacks the type (`bfloat16` in uint16).
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
        """An array of raw chunks of whole rows, for memory maps. Append its rows in order, in blocks of any size.

        The draft closes it; too few rows are then an error. One chunk, at most 128 MiB or one row, is held in memory.
        """
        folder = self._new_array(name)
        with self._writing(f"the array {name!r}"):
            writer = arrays.mappable_writer(folder, shape, dtype, logical_dtype)
        return self._register(name, writer, dtype, logical_dtype, mappable=True)

    def growing_array(
        self, name: str, row_shape: tuple[int, ...], dtype: npt.DTypeLike, *, logical_dtype: str | None = None
    ) -> arrays.RowWriter:
        """An array for a stream of rows of unknown number: append blocks of any size; the draft closes it.

        One shard, about 64 MiB, is held in memory.
        """
        folder = self._new_array(name)
        with self._writing(f"the array {name!r}"):
            writer = arrays.growing_writer(folder, row_shape, dtype, logical_dtype)
        return self._register(name, writer, dtype, logical_dtype, mappable=False)

    def table(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table as `<name>.parquet`."""
        path = self._new_table(name)
        with self._writing(f"the table {name!r}"):
            frame.write_parquet(path, compression="zstd")
        self._rows[name] = frame.height

    def table_from(self, name: str, frames: Iterable[pl.DataFrame], schema: pl.Schema) -> int:
        """Write a table from a stream of frames, holding a few of them at a time, and return its rows.

        Args:
            name: as for `table`.
            frames: each of exactly this schema, columns in any order; what they raise is raised here.
            schema: the columns and their types, which stand even if no frame comes.

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
        """A new empty folder of the artifact for files of other kinds."""
        path = self.folder_path / self._plain(name)
        with self._writing(f"the folder {name!r}"):
            path.mkdir()
        return path

    def shares_its_cost_with(self, others: int) -> None:
        """Say that as many other artifacts came out of the same work: each is put down for its part of the time."""
        self._sharing = others + 1

    def summarise(self, **figures: Any) -> None:
        """Add figures that people read to the manifest: numbers, texts and lists or mappings of them."""
        self._summary.update(json.loads(json.dumps(figures, default=_as_json)))

    def close(self, key: ArtifactKey, **described: Any) -> Manifest:
        """Finish every array and write the manifest last; afterwards all of it is safely on the disk.

        Args:
            key: the artifact that this becomes.
            described: the manifest's fields that the draft does not know.

        Raises:
            StorageError: the disk refuses.
        """
        self._close_writers()
        with self._writing(f"the manifest of {key}"):
            return self._seal(key, described)

    def _seal(self, key: ArtifactKey, described: dict[str, Any]) -> Manifest:
        written = {
            path.relative_to(self.folder_path).as_posix(): record_and_sync(path)
            for path in files.files_below(self.folder_path)
        }
        manifest = Manifest(
            asset=key.asset,
            partition=key.partition,
            data_version=key.data_version,
            host=socket.gethostname(),
            started_at=self._started_at,
            seconds=(time.monotonic() - self._started) / self._sharing,
            cpu_seconds=(time.process_time() - self._cpu_started) / self._sharing,
            peak_memory_bytes=_peak_memory_bytes(),
            bytes=sum(record.bytes for record in written.values()),
            rows=self._rows,
            arrays=self._arrays,
            files=written,
            summary=self._summary,
            libraries=dict(library_versions()),
            **described,
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
            raise ValueError(f"{name!r} is not a lowercase word that the artifact leaves free")
        return name


def _as_json(value: object) -> object:
    """What numpy's values are in JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path | datetime):
        return str(value)
    raise TypeError(f"{value!r} has no place in a manifest's summary")


def _peak_memory_bytes() -> int:
    """The largest resident memory of this process so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
