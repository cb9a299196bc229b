"""Errors of the disk while artifacts are written or removed, reworded to say what to do about them."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from influence_assets.errors import InputError, StorageError

_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""How polars and safetensors (Rust) and `shutil.copytree` mention the error number in errors of their own types."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_ONLY_FROM_WRITING = {*_FULL, errno.EFBIG, errno.EROFS}
"""Errors that only writing can cause, whatever raises them."""


@contextmanager
def writing(what: str, folder: object) -> Iterator[None]:
    """Reword any system error in a block that only writes.

    Args:
        what: what is written, in words for people.
        folder: where it is written, a path or a URL.

    Raises:
        StorageError: it cannot be written; the error says why and what to do.
    """
    with _reworded(f"{what} cannot be written", folder, None):
        yield


@contextmanager
def removing(what: str, folder: object) -> Iterator[None]:
    """Reword any system error in a block that only removes files; see `writing`."""
    with _reworded(f"{what} cannot be removed", folder, None):
        yield


@contextmanager
def computing(what: str, folder: object) -> Iterator[None]:
    """Reword errors that only writing can cause, in a block that also reads other files.

    Args:
        what: as for `writing`.
        folder: as for `writing`.

    Raises:
        StorageError: as for `writing`.
    """
    with _reworded(f"{what} cannot be written", folder, _ONLY_FROM_WRITING):
        yield


@contextmanager
def _reworded(problem: str, folder: object, numbers: set[int] | None) -> Iterator[None]:
    """Raise system errors, or only those with some numbers, as a `StorageError`."""
    try:
        yield
    except Exception as error:
        number = _system_error_number(error)
        if number is None or (numbers is not None and number not in numbers):
            raise
        raise _storage_error(problem, folder, number) from error


def _system_error_number(error: Exception) -> int | None:
    """Return the system's number of an error that was not reworded yet, or None."""
    if isinstance(error, InputError | StorageError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _NUMBER_IN_TEXT.search(str(error))
    return None if match is None else int(match[1] or match[2])


def _storage_error(problem: str, folder: object, number: int) -> StorageError:
    if number in _FULL:
        remedy = "Free some space on that disk"
    elif number == errno.EFBIG:
        remedy = "Allow larger files there (`ulimit -f`)"
    elif number in _NOT_WRITABLE:
        remedy = "Make that folder writable"
    else:
        remedy = "Repair that disk"
    return StorageError(f"{folder}: {problem} ({os.strerror(number)}). {remedy} and run again.")
