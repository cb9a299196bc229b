"""Damage to artifacts: found by reading everything again, and marked so that the artifact is recomputed."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage.artifacts import ownership
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest, salvaged
from influence_assets.storage.artifacts.names import DAMAGE_MARK, MANIFEST, place_of, record_of
from influence_assets.storage.artifacts.reading import Artifact, manifest_of, read_manifest
from influence_assets.storage.backend import Backend
from influence_assets.storage.disk_errors import writing


@dataclass(frozen=True)
class Damage:
    """An artifact that is not as it was written.

    Args:
        key: the artifact's key, or None if it can no longer be read.
        folder: the artifact's folder; `ArtifactStore.mark_damaged` takes this, `files` and `problem`.
        files: the damaged files, by path inside the folder.
        problem: what is wrong, in one clause.
    """

    key: ArtifactKey | None
    folder: Path
    files: tuple[str, ...]
    problem: str


def mark(backend: Backend, place: str, names: Sequence[str], problem: str) -> None:
    """Mark an artifact as damaged.

    Raises:
        StorageError: the disk cannot be written.
    """
    content = json.dumps({"files": list(names), "problem": problem}, indent=1).encode()
    with writing("the mark of its damage", backend.local_root / place):
        backend.write(f"{place}/{DAMAGE_MARK}", content)


def marked_damage(backend: Backend, place: str) -> DamagedError | None:
    """Return the error for an artifact that is marked as damaged, or None if it is not marked."""
    folder = backend.local_root / place
    try:
        mark_fields = json.loads(backend.read(f"{place}/{DAMAGE_MARK}"))
        return DamagedError(folder, mark_fields["files"], str(mark_fields["problem"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return DamagedError(folder, [], "is marked as damaged")


def known_manifest(backend: Backend, place: str, study: str, *, with_records: bool) -> Manifest | None:
    """Return the manifest of the artifact in a place, from any copy of it that is intact; None if there is none.

    Args:
        backend: the store's files.
        place: the artifact's folder.
        study: the study that owns the store.
        with_records: whether to read the record of an artifact even if nothing else of it is left.
    """
    with suppress(StorageError):
        return manifest_of(backend, place, study, salvage=True)
    if with_records or ownership.is_artifact(backend, place, study):
        with suppress(StorageError):
            return manifest_of(backend, place, study, record_of(place), salvage=True)
        with suppress(OSError, ValueError):
            manifest = salvaged(*(backend.read(name) for name in (f"{place}/{MANIFEST}", record_of(place))))
            if manifest.study == study and place_of(manifest.key) == place:
                return manifest
    return None


def find_damage(backend: Backend, place: str, study: str) -> Damage | None:
    """Read an artifact and its record again and return their damage; None if they are intact, or both are gone."""
    while True:
        before = _stamp(backend, place)
        if ownership.is_artifact(backend, place, study):
            damage = _damage_of_folder(backend, place, study) or _damage_of_record(backend, place, study)
        else:
            damage = _damage_of_record(backend, place, study)
        # If another process replaced or removed the artifact meanwhile, what was read is a mixture of two.
        if damage is None or _stamp(backend, place) == before:
            return damage


def is_of_record(names: Sequence[str]) -> bool:
    """Return whether only an artifact's record is damaged."""
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
    problems = dict(artifact.damage())
    return Damage(artifact.key, folder, tuple(problems), next(iter(problems.values()))) if problems else None


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
    """Return whether a record is this product's, going by its own content or by the artifact beside it."""
    return ownership.is_record(backend, place, study) or ownership.is_artifact(backend, place, study)


def _key_of(backend: Backend, place: str) -> ArtifactKey | None:
    for name in (f"{place}/{MANIFEST}", record_of(place)):
        with suppress(StorageError):
            return read_manifest(backend, name, salvage=True).key
    return None


def _stamp(backend: Backend, place: str) -> bytes | None:
    """Return a manifest's bytes, which differ between two artifacts written to the same place, or None."""
    try:
        return backend.read(f"{place}/{MANIFEST}")
    except OSError:
        return None
