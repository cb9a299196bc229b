"""The root of a store, which says whose it is and how it is laid out."""

import json
from pathlib import Path

from influence_assets.errors import InputError, StorageError
from influence_assets.storage import locks
from influence_assets.storage.manifest import FORMAT_VERSION
from influence_assets.storage.places import draft_beside

MARKER = "influence_store.json"


def prepare(root: Path, study: str) -> None:
    """Make a root of a study's store, or see that it is one.

    Raises:
        InputError: the root cannot be written, or holds the store of another study.
        StorageError: the store was written by another version, or its marker is damaged.
    """
    marker = root / MARKER
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Written even where a marker stands: it proves that the root can be written.
        fresh = draft_beside(marker)
        try:
            fresh.write_text(json.dumps({"format_version": FORMAT_VERSION, "study": study}), encoding="utf-8")
            with locks.exclusive(root / locks.PUBLISHING):
                if not marker.exists():
                    fresh.rename(marker)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        problem = f"{root} cannot be written ({error.strerror or error})"
        remedy = "Choose a folder that you may write to, or free some space there."
        raise InputError("storage.root", problem, remedy) from error
    _refuse_a_foreign_store(marker, study)


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
