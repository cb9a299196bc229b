"""Reading of complete artifacts. Everything is checked against the manifest before it is returned."""

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
    """A complete artifact that can be read.

    Args:
        backend: the store's files.
        place: the artifact's folder in the store.
        manifest: a description of everything that the artifact holds.
    """

    backend: Backend
    place: str
    manifest: Manifest

    @property
    def folder(self) -> Path:
        """The folder on this machine that holds the files, or will hold them once they are read."""
        return self.backend.local_root / self.place

    @property
    def local_root(self) -> Path:
        """The folder of those files of the store that must be on this machine, such as the DuckDB file."""
        return self.backend.local_root

    @property
    def key(self) -> ArtifactKey:
        """The artifact's key."""
        return self.manifest.key

    def array_names(self) -> list[str]:
        """Return the arrays' names, sorted."""
        return sorted(self.manifest.arrays)

    def array(self, name: str) -> npt.NDArray[Any]:
        """Read a whole array into memory.

        Raises:
            DamagedError: the array is damaged or incomplete.
            StorageError: there is no array of that name.
        """
        record = self.array_record(name)
        return self.mapped(name).read(0, record.shape[0]) if record.mappable else self._read(name, None)

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows from `start` up to, but not including, `stop`; only the chunks that hold them are read.

        Raises:
            DamagedError: as for `array`.
            StorageError: as for `array`.
        """
        if self.array_record(name).mappable:
            return self.mapped(name).read(start, stop)
        return self._read(name, slice(start, stop))

    def mapped(self, name: str) -> mapped.MappedArray:
        """Open an array written by `Draft.mappable_array`, to be read block by block through memory maps.

        Raises:
            DamagedError: the array's description is damaged; the blocks are checked later, one by one.
            StorageError: there is no array of that name, or it is compressed.
        """
        folder, record = self._array_folder(name), self.array_record(name)
        if not record.mappable:
            raise StorageError(f"{folder}: the array is compressed and cannot be mapped. Read it with `array`.")
        return mapped.map_array(folder, record)

    def array_record(self, name: str) -> ArrayRecord:
        """Return the shape, dtype and logical dtype of an array, without reading it.

        Raises:
            StorageError: there is no array of that name.
        """
        if name not in self.manifest.arrays:
            raise StorageError(f"{self.folder}: has no array {name!r}, only {self.array_names()}.")
        return self.manifest.arrays[name]

    def table(self, name: str) -> pl.LazyFrame:
        """Return a table as a lazy frame.

        Raises:
            DamagedError: the table's file is not as it was written.
            StorageError: there is no table of that name.
        """
        return pl.scan_parquet(self.table_path(name))

    def table_path(self, name: str) -> Path:
        """Return the path of a table's Parquet file, which each process reads and checks once.

        Raises:
            DamagedError: the file is not as it was written.
            StorageError: there is no table of that name.
        """
        if name not in self.manifest.rows:
            raise StorageError(f"{self.folder}: has no table {name!r}, only {sorted(self.manifest.rows)}.")
        return self._checked(f"{name}.parquet")

    def path(self, name: str) -> Path:
        """Return the path of a file or folder of the artifact, which each process reads and checks once.

        Args:
            name: the path inside the artifact.

        Raises:
            DamagedError: the file, or one in the folder, is not as it was written.
            StorageError: there is no such file or folder.
        """
        if name in self.manifest.files:
            return self._checked(name)
        names_below = [path for path in self.manifest.files if path.startswith(f"{name}/")]
        if not names_below:
            raise StorageError(f"{self.folder}: has no file or folder {name!r}.")
        self.backend.fetch(f"{self.place}/{name}")
        for path in names_below:
            self._checked(path)
        return self.folder / name

    def verify(self) -> list[str]:
        """Read every file again and return the paths of those that are not as they were written."""
        return [name for name, _ in self.damage()]

    def damage(self) -> Iterator[tuple[str, str]]:
        """Read every file again and yield the path and the problem of each that is not as it was written."""
        return self._damage_below("")

    def _damage_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        self.backend.fetch(f"{self.place}/{prefix}".rstrip("/"), again=True)
        for name, record in self.manifest.files.items():
            if not name.startswith(prefix):
                continue
            problem = file_checks.damage_of(self.folder / name, record, again=True)
            if problem is not None:
                yield name, problem

    def _read(self, name: str, rows: slice | None) -> npt.NDArray[Any]:
        folder = self._array_folder(name)
        try:
            return arrays.read_array(folder, rows)
        except DamagedError as error:
            # Zarr does not say which file is damaged; the hashes do.
            prefix = f"{folder.relative_to(self.folder).as_posix()}/"
            damaged = [path for path, _ in self._damage_below(prefix)]
            raise DamagedError(self.folder, damaged or error.files, error.problem) from error

    def _array_folder(self, name: str) -> Path:
        """Return the folder of an array after checking its description; chunks have checksums of their own."""
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
    """Read a manifest from a file in or beside an artifact's folder.

    Args:
        backend: the store's files.
        name: the file.
        salvage: whether one of the two copies of format 3 is enough.

    Raises:
        DamagedError: the manifest is not as it was written.
        StorageError: the artifact does not exist, or the file cannot be read.
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
    """Read the manifest of the artifact that belongs in a place.

    Args:
        backend: the store's files.
        place: the artifact's folder, which need not exist.
        study: the study that owns the store.
        name: the file to read; by default the manifest in the folder.
        salvage: as for `read_manifest`.

    Raises:
        DamagedError: the manifest is not as it was written, or belongs to another artifact.
        StorageError: as for `read_manifest`.
    """
    name = name or f"{place}/{MANIFEST}"
    path = backend.local_root / name
    manifest = read_manifest(backend, name, salvage=salvage)
    if manifest.study != study:
        raise DamagedError(path.parent, [path.name], f"belongs to the study {manifest.study!r}, not {study!r}")
    if place_of(manifest.key) != place:
        raise DamagedError(path.parent, [path.name], f"belongs to {manifest.key}, whose folder is another")
    return manifest


def open_artifact(backend: Backend, place: str, study: str) -> Artifact:
    """Open the artifact in a folder after checking its manifest and the sizes of its files.

    Raises:
        DamagedError: the manifest or a file is not as it was written.
        StorageError: there is no artifact, or it cannot be read.
    """
    manifest = manifest_of(backend, place, study)
    damaged = [name for name, record in manifest.files.items() if backend.size(f"{place}/{name}") != record.bytes]
    if damaged:
        problem = f"is missing or does not have its {manifest.files[damaged[0]].bytes} bytes"
        raise DamagedError(backend.local_root / place, damaged, problem)
    return Artifact(backend, place, manifest)
