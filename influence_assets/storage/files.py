"""Files and folders that survive a crash, and names that every file system takes."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from influence_assets.storage.manifest import FileRecord

_LONGEST_NAME = 100
_RESERVED = {"all", "con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}


def safe_name(name: str) -> str:
    """One path segment for any text: readable, different for different texts, never hidden and never `all`.

    Percent-encoded. Where that alone could clash (capitals, on file systems that ignore case; names that an
    operating system reserves) or be too long, the name's hash follows after a `~`, which is encoded elsewhere.
    """
    if not name:
        raise ValueError("a name in the store must not be empty")
    octets = name.encode()
    encoded = quote(octets, safe="").replace("~", "%7E")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if encoded.endswith("."):
        encoded = encoded[:-1] + "%2E"
    reserved = encoded.split(".")[0].lower() in _RESERVED
    if reserved or name != name.lower() or len(encoded) > _LONGEST_NAME:
        return f"{encoded[: _LONGEST_NAME - 17]}~{hashlib.sha256(octets).hexdigest()[:16]}"
    return encoded


def record_and_sync(path: Path) -> FileRecord:
    """Size and sha256 of a file whose content is then safely on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        os.fsync(file.fileno())
        return FileRecord(bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Bring a file's content safely onto the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Bring a folder's entries (names, not contents) safely onto the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def folders_below(folder: Path) -> list[Path]:
    """The folder itself and every subfolder, the deepest last."""
    return [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock file; the operating system releases it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
