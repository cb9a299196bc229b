"""Damage to artifacts: found by reading everything again, and marked so that it is computed anew."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage.artifacts import ownership
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.storage.artifacts.names import DAMAGE_MARK, MANIFEST, record_of
from influence_assets.storage.artifacts.reading import Artifact, manifest_of, read_manifest
from influence_assets.storage.backend import Backend
from influence_assets.storage.disk_errors import writing


@dataclass(frozen=True)
class Damage:
    """An artifact that is not as it was written.

    Args:
        key: what it is, or None where that cannot be read any more.
        folder: where it lies; with `files` and `problem`, what `ArtifactStore.mark_damaged` takes.
        files: what is damaged, by path inside the folder.
        problem: what is wrong, in one clause.
    """

    key: ArtifactKey | None
    folder: Path
    files: tuple[str, ...]
    problem: str


def mark(backend: Backend, place: str, names: Sequence[str], problem: str) -> None:
    """Mark an artifact as damaged.

    Raises:
        StorageError: the disk refuses.
    """
    content = json.dumps({"files": list(names), "problem": problem}, indent=1).encode()
    with writing("the mark of its damage", backend.local_root / place):
        backend.write(f"{place}/{DAMAGE_MARK}", content)


def marked_damage(backend: Backend, place: str) -> DamagedError | None:
    """Return the error of an artifact that is marked as damaged, or None."""
    folder = backend.local_root / place
    try:
        written = json.loads(backend.read(f"{place}/{DAMAGE_MARK}"))
        return DamagedError(folder, written["files"], str(written["problem"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return DamagedError(folder, [], "is marked as damaged")


def known_manifest(backend: Backend, place: str, study: str, *, with_records: bool) -> Manifest | None:
    """Return the manifest of what lies in a place, from whatever copy of it is whole; None where none is.

    Args:
        backend: where it is.
        place: the artifact's folder.
        study: the study that owns the store.
        with_records: also of an artifact of which only its record is left.
    """
    with suppress(StorageError):
        return manifest_of(backend, place, study, salvage=True)
    if with_records or ownership.is_artifact(backend, place, study):
        with suppress(StorageError):
            return manifest_of(backend, place, study, record_of(place), salvage=True)
    return None


def find_damage(backend: Backend, place: str, study: str) -> Damage | None:
    """Read all of an artifact and its record again and say what is wrong; None where nothing is, or both are gone."""
    while True:
        before = _stamp(backend, place)
        if ownership.is_artifact(backend, place, study):
            damage = _damage_of_folder(backend, place, study) or _damage_of_record(backend, place, study)
        else:
            damage = _damage_of_record(backend, place, study)
        # Another process may have replaced or removed the artifact meanwhile: what was seen then is of two.
        if damage is None or _stamp(backend, place) == before:
            return damage


def is_of_record(names: Sequence[str]) -> bool:
    """Whether damage is that of an artifact's record alone."""
    return bool(names) and all(name.startswith("../") for name in names)


def _damage_of_folder(backend: Backend, place: str, study: str) -> Damage | None:
    folder = backend.local_root / place
    error = marked_damage(backend, place)
    if error is not None:
        return Damage(_key_of(backend, place), folder, error.files, error.problem)
    try:
        artifact = Artifact(backend, place, manifest_of(backend, place, study))
    except DamagedError as damaged:
        return Damage(_key_of(backend, place), folder, damaged.files, damaged.problem)
    except StorageError:
        if not backend.is_folder(place):
            return None  # removed meanwhile
        raise
    wrong = dict(artifact.damage())
    return Damage(artifact.key, folder, tuple(wrong), next(iter(wrong.values()))) if wrong else None


def _damage_of_record(backend: Backend, place: str, study: str) -> Damage | None:
    record = record_of(place)
    if backend.size(record) is None or not _is_known_record(backend, place, study):
        return None
    try:
        manifest_of(backend, place, study, record)
    except DamagedError as damaged:
        name = f"../{record.rpartition('/')[2]}"
        return Damage(_key_of(backend, place), backend.local_root / place, (name,), damaged.problem)
    return None


def _is_known_record(backend: Backend, place: str, study: str) -> bool:
    """Whether a record is this product's: it says so itself, or the artifact that it is beside does."""
    return ownership.is_record(backend, place, study) or ownership.is_artifact(backend, place, study)


def _key_of(backend: Backend, place: str) -> ArtifactKey | None:
    for name in (f"{place}/{MANIFEST}", record_of(place)):
        with suppress(StorageError):
            return read_manifest(backend, name, salvage=True).key
    return None


def _stamp(backend: Backend, place: str) -> bytes | None:
    """What tells one artifact in a place from another that takes its place: its manifest says when it was written."""
    try:
        return backend.read(f"{place}/{MANIFEST}")
    except OSError:
        return None
