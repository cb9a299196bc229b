"""Damage to artifacts: found by reading everything again, and marked so that it is computed anew."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage import files, ownership
from influence_assets.storage.disk_errors import writing
from influence_assets.storage.manifest import ArtifactKey
from influence_assets.storage.places import DAMAGE_MARK, MANIFEST, draft_beside, record_beside
from influence_assets.storage.reading import Artifact, manifest_of, read_manifest


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


def mark(folder: Path, names: Sequence[str], problem: str) -> None:
    """Mark an artifact as damaged.

    Raises:
        StorageError: the disk refuses.
    """
    content = json.dumps({"files": list(names), "problem": problem}, indent=1).encode()
    with writing("the mark of its damage", folder):
        files.write_atomically(folder / DAMAGE_MARK, content, through=draft_beside(folder))


def marked_damage(folder: Path) -> DamagedError | None:
    """The error of an artifact that is marked as damaged, or None."""
    try:
        written = json.loads((folder / DAMAGE_MARK).read_bytes())
        return DamagedError(folder, written["files"], str(written["problem"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return DamagedError(folder, [], "is marked as damaged")


def find_damage(place: Path, study: str) -> Damage | None:
    """Read all of an artifact, or its record, again and say what is wrong with it; None where neither is there."""
    while True:
        before = _inode(place)
        is_folder = ownership.is_artifact(place, study)
        found = _damage_of_folder(place, study) if is_folder else _damage_of_record(place, study)
        # Another process may have replaced or removed the artifact meanwhile: what was seen then is of two.
        if found is None or _inode(place) == before:
            return found


def _damage_of_folder(place: Path, study: str) -> Damage | None:
    error = marked_damage(place)
    if error is not None:
        return Damage(_key_of(place), place, error.files, error.problem)
    try:
        artifact = Artifact(place, manifest_of(place, study))
    except DamagedError as damaged:
        return Damage(_key_of(place), place, damaged.files, damaged.problem)
    except StorageError:
        if not place.is_dir():
            return None  # removed meanwhile
        raise
    wrong = dict(artifact.damage())
    return Damage(artifact.key, place, tuple(wrong), next(iter(wrong.values()))) if wrong else None


def _damage_of_record(place: Path, study: str) -> Damage | None:
    record = record_beside(place)
    if not ownership.is_record(place, study):
        return None
    try:
        manifest_of(place, study, path=record)
    except DamagedError as damaged:
        return Damage(_key_at(record), place, (f"../{record.name}",), damaged.problem)
    return None


def _key_of(place: Path) -> ArtifactKey | None:
    return _key_at(place / MANIFEST) or _key_at(record_beside(place))


def _key_at(path: Path) -> ArtifactKey | None:
    try:
        return read_manifest(path, salvage=True).key
    except StorageError:
        return None


def _inode(place: Path) -> int | None:
    try:
        return place.stat().st_ino
    except FileNotFoundError:
        return None
