"""The root of a store, which says whose it is and how it is laid out."""

import json
from pathlib import Path

from influence_assets.errors import InputError, StorageError
from influence_assets.storage import locks, ownership
from influence_assets.storage.manifest import FORMAT_VERSION
from influence_assets.storage.places import draft_beside, is_draft, places_below, real_folders

MARKER = "influence_store.json"
_UNCLAIMED = {locks.PUBLISHING, ".dagster", "lost+found", ".DS_Store", ".gitignore", ".gitkeep"}
"""What a folder may hold that is to become a store: what another process makes at the same time, the UI's instance,
and what systems put into empty folders."""


def prepare(root: Path, study: str) -> None:
    """Make a root of a study's store, or see that it is one.

    Raises:
        InputError: the root cannot be written, or holds the store of another study, or things of somebody else.
        StorageError: the store was written by another version, or its marker is damaged.
    """
    marker = root / MARKER
    try:
        root.mkdir(parents=True, exist_ok=True)
        _refuse_what_others_keep(root, study)
        # Written even where a marker stands: it proves that the root can be written.
        fresh = draft_beside(marker)
        try:
            fresh.write_text(json.dumps({"format_version": FORMAT_VERSION, "study": study}), encoding="utf-8")
            with locks.locked(root / locks.PUBLISHING):
                if not marker.exists():
                    fresh.rename(marker)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        problem = f"{root} cannot be written ({error.strerror or error})"
        remedy = "Choose a folder that you may write to, or free some space there."
        raise InputError("storage.root", problem, remedy) from error
    _refuse_a_foreign_store(marker, study)


def _refuse_what_others_keep(root: Path, study: str) -> None:
    """Raise where a folder without a marker holds things, unless artifacts show that it is a store that lost it."""
    marker = root / MARKER
    if marker.exists():
        return
    strange = sorted(path.name for path in root.iterdir() if path.name not in _UNCLAIMED and not is_draft(path))
    # Another process may have made the store while this one was looking.
    if not strange or marker.exists() or _holds_artifacts(root, study):
        return
    problem = f"{root} is no store of this product and holds other things ({', '.join(strange[:3])})"
    raise InputError("storage.root", problem, "Name a new or empty folder, where nothing else is kept.")


def _holds_artifacts(root: Path, study: str) -> bool:
    return any(
        ownership.is_artifact(place, study)
        for asset in real_folders(root)
        for partition in real_folders(asset)
        for place in places_below(partition, with_records=False)
    )


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
