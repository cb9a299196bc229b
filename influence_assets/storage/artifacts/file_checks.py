"""Checks that an artifact's files are as they were written."""

import errno
import hashlib
import os
from pathlib import Path

from influence_assets.durable.files import sha256_of
from influence_assets.durable.identity import identity
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import FileRecord

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_BAD_MEDIUM = {errno.EIO, errno.EBADMSG, errno.ENODATA, *([errno.EUCLEAN] if hasattr(errno, "EUCLEAN") else [])}
_MOST_CHECKED = 2**17
_checked: set[tuple[object, ...]] = set()
"""Identities of files whose content this process has checked."""


def record_and_sync(path: Path) -> FileRecord:
    """Sync a file's content to the disk and return its size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        os.fsync(file.fileno())
        return FileRecord(bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())


def damage_of(path: Path, record: FileRecord, *, again: bool = False) -> str | None:
    """Return what is wrong with a file's content, as a clause, or None.

    A process does not read a file again after it passed the check, unless the file's size, times or inode change.

    Args:
        path: the file.
        record: the file's size and hash when it was written.
        again: read the file even if it has passed the check before.

    Raises:
        StorageError: the file cannot be read for a reason other than its content (permissions, too many open files).
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
        return damage_shown_by(error, path)
    if identity == after:
        if len(_checked) >= _MOST_CHECKED:
            _checked.clear()
        _checked.add(identity)
    return None


def damage_shown_by(error: OSError, path: Path) -> str:
    """Return what an error on reading a file shows to be wrong with the file, as a clause.

    Raises:
        StorageError: the error says nothing about the file's content.
    """
    if error.errno in _GONE:
        return "is missing"
    if error.errno in _BAD_MEDIUM:
        return f"cannot be read ({error.strerror})"
    problem = f"{path}: cannot be read ({error.strerror or error})"
    raise StorageError(f"{problem}. Remove the cause, and run again.") from error


def _identity(path: Path, record: FileRecord, stat: os.stat_result) -> tuple[object, ...]:
    return (str(path), record.sha256, *identity(stat))
