"""A complete artifact, to be read without trust: nothing is handed out that is not what was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import polars as pl

from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage.artifacts import arrays, file_checks, mapped
from influence_assets.storage.artifacts.manifest import ArrayRecord, ArtifactKey, Manifest, salvaged, unsealed
from influence_assets.storage.artifacts.names import ARRAYS, MANIFEST, parent_of, place_of
from influence_assets.storage.backend import Backend


@dataclass(frozen=True)
class Artifact:
    """A complete artifact, to be read.

    Args:
        backend: where its files are.
        place: its folder there.
        manifest: what it holds.
    """

    backend: Backend
    place: str
    manifest: Manifest

    @property
    def folder(self) -> Path:
        """Where its files are, or come to be when they are read, on this machine."""
        return self.backend.local_root / self.place

    @property
    def local_root(self) -> Path:
        """The folder of the store's files that are on this machine, such as the DuckDB file."""
        return self.backend.local_root

    @property
    def key(self) -> ArtifactKey:
        """What it is."""
        return self.manifest.key

    def array_names(self) -> list[str]:
        """The arrays' names, sorted."""
        return sorted(self.manifest.arrays)

    def array(self, name: str) -> npt.NDArray[Any]:
        """A whole array in memory.

        Raises:
            DamagedError: it is damaged or incomplete.
            StorageError: there is none of that name.
        """
        record = self.array_record(name)
        return self.mapped(name).read(0, record.shape[0]) if record.mappable else self._read(name, None)

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows start to stop (left out) of an array; only the chunks that hold them are read.

        Raises:
            DamagedError: as for `array`.
            StorageError: as for `array`.
        """
        if self.array_record(name).mappable:
            return self.mapped(name).read(start, stop)
        return self._read(name, slice(start, stop))

    def mapped(self, name: str) -> mapped.MappedArray:
        """An array written by `Draft.mappable_array`, to be read block by block through memory maps.

        Raises:
            DamagedError: its description is damaged; the blocks are checked one by one.
            StorageError: there is none of that name, or it was not written to be mapped.
        """
        folder, record = self._array_folder(name), self.array_record(name)
        if not record.mappable:
            raise StorageError(f"{folder}: the array is compressed and cannot be mapped. Read it with `array`.")
        return mapped.map_array(folder, record)

    def array_record(self, name: str) -> ArrayRecord:
        """Shape, dtype and logical dtype of an array, without reading it.

        Raises:
            StorageError: there is none of that name.
        """
        if name not in self.manifest.arrays:
            raise StorageError(f"{self.folder}: has no array {name!r}, only {self.array_names()}.")
        return self.manifest.arrays[name]

    def table(self, name: str) -> pl.LazyFrame:
        """A table, to be read lazily.

        Raises:
            DamagedError: its file is not as it was written.
            StorageError: there is none of that name.
        """
        return pl.scan_parquet(self.table_path(name))

    def table_path(self, name: str) -> Path:
        """The Parquet file of a table, read and checked once by each process.

        Raises:
            DamagedError: it is not as it was written.
            StorageError: there is none of that name.
        """
        if name not in self.manifest.rows:
            raise StorageError(f"{self.folder}: has no table {name!r}, only {sorted(self.manifest.rows)}.")
        return self._checked(f"{name}.parquet")

    def path(self, name: str) -> Path:
        """A file or folder of the artifact, by its path in it; all of it is read and checked once by each process.

        Raises:
            DamagedError: the file, or one in the folder, is not as it was written.
            StorageError: there is none of that name.
        """
        if name in self.manifest.files:
            return self._checked(name)
        inside = [path for path in self.manifest.files if path.startswith(f"{name}/")]
        if not inside:
            raise StorageError(f"{self.folder}: has no {name!r}.")
        self.backend.fetch(f"{self.place}/{name}")
        for path in inside:
            self._checked(path)
        return self.folder / name

    def verify(self) -> list[str]:
        """Read every file again and return the paths of those that are not as they were written."""
        return [name for name, _ in self.damage()]

    def damage(self) -> Iterator[tuple[str, str]]:
        """Read every file again; of each that is not as it was written, its path in the artifact and what is wrong."""
        return self._damage_below("")

    def _damage_below(self, beginning: str) -> Iterator[tuple[str, str]]:
        self.backend.fetch(f"{self.place}/{beginning}".rstrip("/"), again=True)
        for name, record in self.manifest.files.items():
            if not name.startswith(beginning):
                continue
            problem = file_checks.damage_of(self.folder / name, record, again=True)
            if problem is not None:
                yield name, problem

    def _read(self, name: str, rows: slice | None) -> npt.NDArray[Any]:
        folder = self._array_folder(name)
        try:
            return arrays.read_array(folder, rows)
        except DamagedError as error:
            # Zarr does not say in which file; the hashes do.
            inside = f"{folder.relative_to(self.folder).as_posix()}/"
            wrong = [path for path, _ in self._damage_below(inside)]
            raise DamagedError(self.folder, wrong or error.files, error.problem) from error

    def _array_folder(self, name: str) -> Path:
        """The folder of an array whose shape, type and layout are as they were written; chunks carry their checks."""
        folder = f"{ARRAYS}/{self.array_record(name).folder}"
        self.backend.fetch(f"{self.place}/{folder}")
        self._checked(f"{folder}/zarr.json")
        return self.folder / folder

    def _checked(self, name: str) -> Path:
        path = self.backend.fetch(f"{self.place}/{name}")
        record = self.manifest.files.get(name)
        problem = "was never written" if record is None else file_checks.damage_of(path, record)
        if problem is not None:
            raise DamagedError(self.folder, [name], problem)
        return path


def read_manifest(backend: Backend, name: str, *, salvage: bool = False) -> Manifest:
    """Return the manifest in a file, in or beside an artifact's folder.

    Args:
        backend: where it is.
        name: the file.
        salvage: whether one of the two copies of format 3 is enough.

    Raises:
        DamagedError: it is not as it was written.
        StorageError: the artifact is not there, or the file cannot be read.
    """
    path = backend.local_root / name
    try:
        return (salvaged if salvage else unsealed)(backend.read(name))
    except OSError as error:
        problem = file_checks.damage_shown_by(error, path)
        if not backend.is_folder(parent_of(name)):
            raise StorageError(f"{path.parent}: is not in the store. Compute it: `influence run`.") from error
        raise DamagedError(path.parent, [path.name], problem) from error
    except ValueError as error:
        raise DamagedError(path.parent, [path.name], "is not a manifest as it was written") from error


def manifest_of(
    backend: Backend, place: str, study: str, name: str | None = None, *, salvage: bool = False
) -> Manifest:
    """Return the manifest of the artifact that belongs in a place.

    Args:
        backend: where it is.
        place: the artifact's folder, there or not.
        study: the study that owns the store.
        name: the file to read; by default the manifest in the folder.
        salvage: as for `read_manifest`.

    Raises:
        DamagedError: it is not as it was written, or that of something else.
        StorageError: as for `read_manifest`.
    """
    name = name or f"{place}/{MANIFEST}"
    path = backend.local_root / name
    manifest = read_manifest(backend, name, salvage=salvage)
    if manifest.study != study:
        raise DamagedError(path.parent, [path.name], f"belongs to the study {manifest.study!r}, not {study!r}")
    if place_of(manifest.key) != place:
        raise DamagedError(path.parent, [path.name], f"belongs to {manifest.key}, which lies elsewhere")
    return manifest


def open_artifact(backend: Backend, place: str, study: str) -> Artifact:
    """Open the artifact in a folder; the sizes of its files are those that were written.

    Raises:
        DamagedError: its manifest or a file is not as it was written.
        StorageError: there is none, or it cannot be read.
    """
    manifest = manifest_of(backend, place, study)
    wrong = [name for name, record in manifest.files.items() if backend.size(f"{place}/{name}") != record.bytes]
    if wrong:
        problem = f"is missing or does not have its {manifest.files[wrong[0]].bytes} bytes"
        raise DamagedError(backend.local_root / place, wrong, problem)
    return Artifact(backend, place, manifest)
