"""The store: immutable folders, one for each artifact, that only their manifests make trustworthy.

`<root>/<asset>/<partition or "all">/<data version>/` holds `manifest.json`, `arrays/<name>/` (Zarr 3),
`<table>.parquet` and other files. A folder is written hidden beside its place and renamed when complete.
"""

import errno
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack
from uuid import uuid4

import numpy.typing as npt
import polars as pl
from pydantic import JsonValue, ValidationError

from influence_assets.errors import InputError, StorageError
from influence_assets.storage import arrays, files
from influence_assets.storage.drafts import ARRAYS, MANIFEST, Draft, draft_folder, is_abandoned
from influence_assets.storage.manifest import FORMAT_VERSION, ArrayRecord, ArtifactKey, Manifest

MARKER = "influence_store.json"


@dataclass(frozen=True)
class Artifact:
    """A complete artifact, to be read.

    Args:
        folder: where it lies.
        manifest: what it holds.
    """

    folder: Path
    manifest: Manifest

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
            StorageError: there is none of that name, or it is damaged or incomplete.
        """
        return arrays.read_array(self._array_folder(name))

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows start to stop (left out) of an array; only the chunks that hold them are read.

        Raises:
            StorageError: as for `array`.
        """
        return arrays.read_array(self._array_folder(name), slice(start, stop))

    def mapped(self, name: str) -> arrays.MappedArray:
        """An array written by `Draft.mappable_array`, to be read block by block through memory maps.

        Raises:
            StorageError: there is none of that name, or it was not written to be mapped.
        """
        folder, record = self._array_folder(name), self.array_record(name)
        if not record.mappable:
            raise StorageError(f"{folder}: the array is compressed and cannot be mapped. Read it with `array`.")
        return arrays.map_array(folder, record)

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
            StorageError: there is none of that name.
        """
        return pl.scan_parquet(self.table_path(name))

    def table_path(self, name: str) -> Path:
        """The Parquet file of a table.

        Raises:
            StorageError: there is none of that name.
        """
        if name not in self.manifest.rows:
            raise StorageError(f"{self.folder}: has no table {name!r}, only {sorted(self.manifest.rows)}.")
        return self.folder / f"{name}.parquet"

    def path(self, name: str) -> Path:
        """A file or folder of the artifact, by its path in it.

        Raises:
            StorageError: there is none of that name.
        """
        if name not in self.manifest.files and not any(path.startswith(f"{name}/") for path in self.manifest.files):
            raise StorageError(f"{self.folder}: has no {name!r}.")
        return self.folder / name

    def verify(self) -> list[str]:
        """Read every file again and return the paths of those that are not as they were written."""
        return [
            name
            for name, record in self.manifest.files.items()
            if not (path := self.folder / name).is_file() or files.sha256_of(path) != record.sha256
        ]

    def _array_folder(self, name: str) -> Path:
        return self.folder / ARRAYS / self.array_record(name).folder


class Provenance(TypedDict, total=False):
    """What `ArtifactStore.write` is told of how an artifact comes about, for its manifest.

    Attributes:
        settings: the settings that matter to it.
        run_id: the run that computes it.
        device: the accelerator that computes it.
    """

    settings: dict[str, JsonValue]
    run_id: str | None
    device: str | None


class ArtifactStore:
    """All artifacts of one study below one folder.

    Args:
        root: the folder, which `open_or_create` prepares.
        study: the study's name.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.root = root
        self.study = study

    @classmethod
    def open_or_create(cls, root: Path, study: str) -> "ArtifactStore":
        """Open a study's store, or begin one.

        Raises:
            InputError: the root cannot be written, or holds the store of another study.
            StorageError: the store was written by another version, or its marker is damaged.
        """
        marker = root / MARKER
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Written even where a marker stands: it proves that the root can be written.
            fresh = root / f".{MARKER}-{uuid4().hex}"
            fresh.write_text(json.dumps({"format_version": FORMAT_VERSION, "study": study}), encoding="utf-8")
            with files.exclusive_lock(root / ".lock"):
                if marker.exists():
                    fresh.unlink()
                else:
                    fresh.rename(marker)
        except OSError as error:
            problem = f"{root} cannot be written ({error.strerror or error})"
            remedy = "Choose a folder that you may write to, or free some space there."
            raise InputError("storage.root", problem, remedy) from error
        _refuse_a_foreign_store(marker, study)
        return cls(root, study)

    def place(self, key: ArtifactKey) -> Path:
        """The folder of an artifact, whether it is there or not."""
        partition = "all" if key.partition is None else files.safe_name(key.partition)
        return self.root / files.safe_name(key.asset) / partition / files.safe_name(key.data_version)

    def holds(self, key: ArtifactKey) -> bool:
        """Whether the artifact is there, complete as far as names and sizes of its files tell."""
        try:
            self.open(key)
        except StorageError:
            return False
        return True

    def open(self, key: ArtifactKey) -> Artifact:
        """Open an artifact to read it.

        Raises:
            StorageError: it is missing, or its manifest or a file does not agree with it.
        """
        artifact = self._open_place(self.place(key))
        if artifact.key != key:
            raise StorageError(f"{artifact.folder}: holds {artifact.key}, not {key}. {_remedy(artifact.folder)}")
        return artifact

    def manifests(self, asset: str | None = None) -> Iterator[Manifest]:
        """The manifests of all artifacts, or of one asset's; an artifact that `open` would refuse is left out."""
        assets = "*" if asset is None else files.safe_name(asset)
        for path in sorted(self.root.glob(f"{assets}/*/*/{MANIFEST}")):
            if path.parent.name.startswith("."):
                continue
            with suppress(StorageError):
                artifact = self._open_place(path.parent)
                if self.place(artifact.key) == path.parent:
                    yield artifact.manifest

    @contextmanager
    def write(
        self, key: ArtifactKey, *, inputs: Sequence[ArtifactKey], code_version: str, **provenance: Unpack[Provenance]
    ) -> Iterator[Draft]:
        """Write an artifact: fill the draft; leaving the block without an exception publishes it.

        Where the same version stands already, the draft is dropped: the same version is the same content.
        After an exception nothing is left of the draft, and what stood before still stands.

        Args:
            key: what is written.
            inputs: the artifacts that it is computed from.
            code_version: version of the code that computes it.
            provenance: see `Provenance`.
        """
        place = self.place(key)
        folder = draft_folder(place)
        folder.mkdir(parents=True)
        try:
            draft = Draft(folder)
            yield draft
            draft.close(
                key,
                study=self.study,
                code_version=code_version,
                inputs=tuple(inputs),
                settings=provenance.get("settings", {}),
                run_id=provenance.get("run_id"),
                device=provenance.get("device"),
            )
            self._publish(folder, key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_abandoned_drafts(self) -> list[Path]:
        """Remove what processes of this host that have ended left half written, and return the folders removed."""
        abandoned = [folder for folder in self.root.glob("*/*/.draft-*") if is_abandoned(folder)]
        for folder in abandoned:
            shutil.rmtree(folder, ignore_errors=True)
        return abandoned

    def _publish(self, folder: Path, key: ArtifactKey) -> None:
        """Rename a complete draft into its place, unless a complete artifact came first."""
        place = self.place(key)
        # The lock keeps two writers from both moving a damaged artifact aside, one of them the other's good one.
        with files.exclusive_lock(place.parent / ".lock"):
            if self.holds(key):
                return
            try:
                folder.rename(place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                damaged = draft_folder(place)
                place.rename(damaged)
                folder.rename(place)
                if damaged.is_dir():
                    shutil.rmtree(damaged, ignore_errors=True)
                else:
                    damaged.unlink()
            for parent in (place.parent, place.parent.parent, self.root):
                files.sync_folder(parent)

    def _open_place(self, place: Path) -> Artifact:
        try:
            manifest = Manifest.model_validate_json((place / MANIFEST).read_bytes())
        except OSError as error:
            raise StorageError(
                f"{place}: is not in the store ({error.strerror}). Compute it: `influence run`."
            ) from error
        except ValidationError as error:
            raise StorageError(f"{place / MANIFEST}: is not a manifest. {_remedy(place)}") from error
        if manifest.study != self.study:
            raise StorageError(f"{place}: belongs to the study {manifest.study!r}. {_remedy(place)}")
        for name, record in manifest.files.items():
            if not _has_size(place / name, record.bytes):
                raise StorageError(
                    f"{place / name}: is missing or does not have its {record.bytes} bytes. {_remedy(place)}"
                )
        return Artifact(place, manifest)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _remedy(place: Path) -> str:
    return f"Delete {place} and compute it again: `influence run`."


def _refuse_a_foreign_store(marker: Path, study: str) -> None:
    try:
        written = json.loads(marker.read_text(encoding="utf-8"))
        version, owner = written["format_version"], written["study"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{marker}: cannot be read. Choose another storage.root, or mend the file.") from error
    if owner != study:
        problem = f"{marker.parent} is the store of the study {owner!r}, not of {study!r}"
        raise InputError("storage.root", problem, f"Choose another storage.root, or name the study {owner!r}.")
    if version != FORMAT_VERSION:
        remedy = "Choose another storage.root, or use the version that wrote it."
        raise StorageError(f"{marker}: format version {version}, where {FORMAT_VERSION} is needed. {remedy}")
