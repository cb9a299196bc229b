"""Taking away: artifacts, what dead processes left half written, and folders that nothing lies in any more.

What is removed is first renamed to a draft's name, so that a process that dies meanwhile leaves nothing that looks
like an artifact, and the next one takes it away.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from influence_assets.storage import files, locks, ownership
from influence_assets.storage.disk_errors import removing, writing
from influence_assets.storage.manifest import Manifest, sealed
from influence_assets.storage.places import (
    DAMAGE_MARK,
    MANIFEST,
    draft_beside,
    is_abandoned,
    is_draft,
    real_folders,
    record_beside,
)


def remove_artifact(place: Path, study: str, manifest: Manifest | None) -> int:
    """Remove an artifact and its record, and return the bytes freed.

    Args:
        place: the artifact's folder, there or not.
        study: the study that owns the store; nothing is removed that is not this study's.
        manifest: the artifact's, or None where it cannot be read any more.

    Raises:
        StorageError: the disk refuses; run again, then.
    """
    with removing(place.name, place.parent):
        record, has_record = record_beside(place), ownership.is_record(place, study)
        freed = _remove(place, study, manifest)
        if has_record:
            freed += record.stat().st_size
            record.unlink()
            files.sync_folder(place.parent)
    return freed


def reduce_artifact(place: Path, manifest: Manifest) -> int:
    """Remove an artifact, all but a record of it, and return the bytes freed.

    Raises:
        StorageError: the disk refuses; run again, then.
    """
    write_record(place, manifest)
    with removing(place.name, place.parent):
        return _remove(place, manifest.study, manifest)


def write_record(place: Path, manifest: Manifest) -> None:
    """Write an artifact's manifest beside its folder, where it outlives it.

    Raises:
        StorageError: the disk refuses.
    """
    record, content = record_beside(place), sealed(manifest)
    with writing("the record of an artifact", place.parent):
        if not (record.is_file() and record.read_bytes() == content):
            files.write_atomically(record, content, through=draft_beside(place))


def clear(place: Path, study: str, manifest: Manifest | None) -> Path | None:
    """Make room for an artifact: what damaged one lies in its place is set aside, and returned, to be deleted.

    Raises:
        StorageError: something lies there that the product did not make.
    """
    if not os.path.lexists(place) or _is_empty_folder(place):
        return None
    if not ownership.is_artifact(place, study):
        ownership.refuse_foreign(place, "an artifact")
    foreign = ownership.foreign_files(place, manifest) if manifest is not None else []
    if foreign:
        ownership.refuse_foreign(place / foreign[0], "an artifact")
    return set_aside(place)


def set_aside(place: Path) -> Path | None:
    """Rename what lies in a place to a draft's name, which is returned, or None where nothing lies there."""
    draft = draft_beside(place)
    try:
        place.rename(draft)
    except FileNotFoundError:
        return None
    files.sync_folder(place.parent)
    return draft


def is_deleted(path: Path) -> bool:
    """Delete a file or folder if that can be done; a draft that cannot is left for the next process."""
    try:
        _delete(path)
    except OSError:
        return False
    return True


def _remove(place: Path, study: str, manifest: Manifest | None) -> int:
    """Remove what an artifact's folder holds; files in it that are not the artifact's stay where they are."""
    if not ownership.is_artifact(place, study):
        return 0
    if manifest is not None and ownership.foreign_files(place, manifest):
        return _remove_files(place, manifest)
    draft = set_aside(place)
    if draft is None:
        return 0
    freed = files.bytes_below(draft)
    _delete(draft)
    return freed


def _remove_files(place: Path, manifest: Manifest) -> int:
    """Remove an artifact's files one by one, its manifest last, and the folders that this leaves empty."""
    freed = 0
    for name in (*manifest.files, DAMAGE_MARK, MANIFEST):
        with suppress(FileNotFoundError):
            freed += (place / name).lstat().st_size
            (place / name).unlink()
    for folder in reversed(files.folders_below(place)):
        if _is_empty_folder(folder):
            folder.rmdir()
    files.sync_folder(place.parent)
    return freed


def remove_drafts(root: Path) -> list[Path]:
    """Remove drafts of processes that have ended, and return what was removed.

    Who has the store alone removes the drafts of all others too, for their processes have ended or are far away.

    Raises:
        StorageError: somebody who has the store alone cannot remove a draft.
    """
    assets = list(real_folders(root))
    drafts = [draft for asset in assets for partition in real_folders(asset) for draft in _drafts_in(partition)]
    # Small files are written without holding the store, so that whoever has it alone may not take what is alive.
    cache = root / ".cache"
    folders = [root, *assets, *([cache] if cache.is_dir() and not cache.is_symlink() else [])]
    small = [draft for folder in folders for draft in _drafts_in(folder) if is_abandoned(draft)]
    if locks.holds_exclusively(root):
        found = drafts + small
        with removing("what was left half written", root):
            for draft in found:
                _delete(draft)
        return found
    return [draft for draft in [*drafts, *small] if is_abandoned(draft) and is_deleted(draft)]


def remove_empty_folders(root: Path) -> list[Path]:
    """Remove the folders of partitions in which nothing but lock files is left, and of assets that this leaves empty.

    Returns:
        What was removed.
    """
    removed = []
    for asset in list(real_folders(root)):
        emptied = [partition for partition in list(real_folders(asset)) if _holds_locks_alone(partition)]
        for partition in emptied:
            for lock in list(partition.iterdir()):
                lock.unlink()
            partition.rmdir()
        if emptied and _is_empty_folder(asset):
            asset.rmdir()
            emptied.append(asset)
        removed += emptied
    return removed


def _holds_locks_alone(folder: Path) -> bool:
    """Whether a folder holds a lock that was made here, and nothing else: it was a partition's."""
    entries = list(folder.iterdir())
    return bool(entries) and all(map(locks.is_lock, entries))


def _drafts_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_draft(path)]


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
