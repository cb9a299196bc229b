"""Where things lie in a store, and what they are called.

`<root>/<asset>/<partition or "all">/<data version>/` is an artifact. Beside it, in the partition's folder: `.draft-*`,
what is being written or removed; `.record-<data version>.json`, the manifest of what was removed; two lock files.
"""

import hashlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from influence_assets.storage import locks
from influence_assets.storage.files import safe_name
from influence_assets.storage.manifest import ArtifactKey

MANIFEST = "manifest.json"
ARRAYS = "arrays"
DAMAGE_MARK = "damaged.json"
_RECORD = ".record-{}.json"
_DRAFT = re.compile(r"\.draft-(?P<random>[0-9a-f]{24})(?P<check>[0-9a-f]{8})-(?P<whose>(?P<pid>\d+)-(?P<host>.+))")


def partition_name(partition: str | None) -> str:
    """The name of a partition's folder."""
    return "all" if partition is None else safe_name(partition)


def place_of(root: Path, key: ArtifactKey) -> Path:
    """The folder of an artifact, whether it is there or not."""
    return root / safe_name(key.asset) / partition_name(key.partition) / safe_name(key.data_version)


def record_beside(place: Path) -> Path:
    """The file of an artifact's record. It is not in the artifact's folder, which comes and goes as a whole."""
    return place.with_name(_RECORD.format(place.name))


def places_below(partition_folder: Path, *, with_records: bool) -> list[Path]:
    """The folders of a partition's artifacts, sorted; of artifacts that have a record alone too, if wanted."""
    names = set()
    prefix, suffix = _RECORD.split("{}")
    try:
        entries = list(os.scandir(partition_folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for entry in entries:
        if not entry.name.startswith("."):
            if entry.is_dir():
                names.add(entry.name)
        elif with_records and entry.name.startswith(prefix):
            names.add(entry.name.removeprefix(prefix).removesuffix(suffix))
    return [partition_folder / name for name in sorted(names)]


def visible_folders(folder: Path) -> Iterator[Path]:
    """The folders in a folder that are not hidden, sorted."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name[0] != "." and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        yield folder / name


def real_folders(folder: Path) -> Iterator[Path]:
    """The folders in a folder that are neither hidden nor links, sorted."""
    return (path for path in visible_folders(folder) if not path.is_symlink())


def draft_beside(place: Path) -> Path:
    """A new name for a hidden folder or file beside a place, which tells whose it is, and that this product made it."""
    random, whose = uuid4().hex[:24], f"{os.getpid()}-{safe_name(socket.gethostname())}"
    return place.parent / f".draft-{random}{check_of(random, whose)}-{whose}"


def is_draft(path: Path) -> bool:
    """Whether a name is one that `draft_beside` made, in whatever process: some of its digits are a checksum."""
    match = _DRAFT.fullmatch(path.name)
    return match is not None and match["check"] == check_of(match["random"], match["whose"])


def check_of(random: str, whose: str) -> str:
    """The checksum in a draft's name, of the rest of it."""
    return hashlib.sha256(f"a draft of influence-assets {random} {whose}".encode()).hexdigest()[:8]


def is_abandoned(draft: Path) -> bool:
    """Whether a draft's process ran on this host and has ended. A draft of another host may still be alive.

    A number that is free here may be that of a process in another container, which then still holds its draft.
    """
    match = _DRAFT.fullmatch(draft.name) if is_draft(draft) else None
    if match is None or match["host"] != safe_name(socket.gethostname()):
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return not locks.is_held(draft)
    except (PermissionError, OverflowError):
        return False
    return False
