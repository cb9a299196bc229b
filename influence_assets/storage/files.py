"""Files and folders that survive a crash, and names that every file system takes."""

import errno
import hashlib
import os
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from influence_assets.errors import StorageError
from influence_assets.storage.manifest import FileRecord

_LONGEST_NAME = 100
_RESERVED = {"all", "con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_BAD_MEDIUM = {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODATA}
_MOST_CHECKED = 2**17
_checked: set[tuple[object, ...]] = set()
"""Identities of files whose content this process has found to be what was written."""


@lru_cache(maxsize=2**16)
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


def damage_of(path: Path, record: FileRecord, *, again: bool = False) -> str | None:
    """What is wrong with a file's content, as a clause, or None.

    A file that was found right is not read again by this process, unless its size, its times or its inode change.

    Args:
        path: the file.
        record: what it was when it was written.
        again: read it even so.

    Raises:
        StorageError: it cannot be read, which says nothing of its content (permissions, too many open files).
    """
    try:
        before = path.stat()
        if before.st_size != record.bytes:
            return f"has {before.st_size} of its {record.bytes} bytes"
        identity = _identity(path, record, before)
        if not again and identity in _checked:
            return None
        if sha256_of(path) != record.sha256:
            return "is not as it was written"
        after = _identity(path, record, path.stat())
    except OSError as error:
        return damage_told_by(error, path)
    if identity == after:
        if len(_checked) >= _MOST_CHECKED:
            _checked.clear()
        _checked.add(identity)
    return None


def damage_told_by(error: OSError, path: Path) -> str:
    """What an error on reading says of a file, as a clause.

    Raises:
        StorageError: it says nothing of the file's content.
    """
    if error.errno in _GONE:
        return "is missing"
    if error.errno in _BAD_MEDIUM:
        return f"cannot be read ({error.strerror})"
    problem = f"{path}: cannot be read ({error.strerror or error})"
    raise StorageError(f"{problem}. Mend what keeps it from being read, and run again.") from error


def _identity(path: Path, record: FileRecord, found: os.stat_result) -> tuple[object, ...]:
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return (str(path), record.sha256, found.st_dev, found.st_ino, found.st_size, *times)


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


def write_atomically(path: Path, content: bytes, *, through: Path) -> None:
    """Write a small file so that it is there whole or not at all, also after a power cut.

    Args:
        path: the file; what stood there is replaced.
        content: what it holds.
        through: where it is written before it is renamed, on the same disk.
    """
    try:
        with through.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        through.replace(path)
    finally:
        through.unlink(missing_ok=True)
    sync_folder(path.parent)


def bytes_below(folder: Path) -> int:
    """The size of all files in a folder and its subfolders."""
    return sum(path.lstat().st_size for path in files_below(folder))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
