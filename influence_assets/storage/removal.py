"""Taking away: artifacts, what dead processes left half written, and folders that nothing lies in any more.

What is removed is first renamed to a draft's name, so that a process that dies meanwhile leaves nothing that looks
like an artifact, and the next one takes it away.
"""

import shutil
from pathlib import Path

from influence_assets.storage import files, locks
from influence_assets.storage.manifest import Manifest, sealed
from influence_assets.storage.places import draft_beside, is_abandoned, record_beside, visible_folders
from influence_assets.storage.refusals import removing, writing


def remove_artifact(place: Path) -> int:
    """Remove what lies in an artifact's place and its record, and return the bytes freed.

    Raises:
        StorageError: the disk refuses; run again, then.
    """
    with removing(place.name, place.parent):
        freed = _remove(place)
        record = record_beside(place)
        if record.exists():
            freed += record.stat().st_size
            record.unlink()
            files.sync_folder(place.parent)
    return freed


def reduce_artifact(place: Path, manifest: Manifest) -> int:
    """Remove what lies in an artifact's place, all but a record of it, and return the bytes freed.

    Raises:
        StorageError: the disk refuses; run again, then.
    """
    with writing("the record of what is removed", place.parent):
        files.write_atomically(record_beside(place), sealed(manifest), through=draft_beside(place))
    with removing(place.name, place.parent):
        return _remove(place)


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


def _remove(place: Path) -> int:
    draft = set_aside(place)
    if draft is None:
        return 0
    freed = files.bytes_below(draft) if draft.is_dir() else draft.stat().st_size
    _delete(draft)
    return freed


def remove_drafts(root: Path) -> list[Path]:
    """Remove drafts of processes that have ended, and return what was removed.

    Who has the store alone removes the drafts of all others too, for their processes have ended or are far away.

    Raises:
        StorageError: somebody who has the store alone cannot remove a draft.
    """
    drafts = list(root.glob("*/*/.draft-*"))
    # Small files are written without holding the store, so that whoever has it alone may not take what is alive.
    small = [draft for pattern in (".draft-*", "*/.draft-*") for draft in root.glob(pattern) if is_abandoned(draft)]
    if locks.has_alone(root):
        found = drafts + small
        with removing("what was left half written", root):
            for draft in found:
                _delete(draft)
        return found
    return [draft for draft in [*drafts, *small] if is_abandoned(draft) and is_deleted(draft)]


def remove_empty_folders(root: Path) -> list[Path]:
    """Remove the folders of partitions and assets in which nothing but lock files is left, and return them."""
    removed = []
    for asset in visible_folders(root):
        for partition in visible_folders(asset):
            names = {entry.name for entry in partition.iterdir()}
            if names <= locks.LOCK_FILES:
                for name in names:
                    (partition / name).unlink()
                partition.rmdir()
                removed.append(partition)
        if not any(asset.iterdir()):
            asset.rmdir()
            removed.append(asset)
    return removed


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
