"""What the disk refuses while an artifact is written, put so that a person can mend it."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from influence_assets.errors import InputError, StorageError

_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""How polars and safetensors (Rust) and `shutil.copytree` mention the number in errors of their own types."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_LOCKED = {errno.EACCES, errno.EPERM, errno.EROFS}
_OF_WRITING = {*_FULL, errno.EFBIG, errno.EROFS}
"""Errors that only writing can bring, whoever raises them."""


@contextmanager
def writing(what: str, folder: object) -> Iterator[None]:
    """Where nothing but writing happens: every error of the system is the disk's.

    Args:
        what: what is written, as a person reads it.
        folder: where it is written, a path or a URL.

    Raises:
        StorageError: it cannot be written; says why and what to do.
    """
    with _told(f"{what} cannot be written", folder, None):
        yield


@contextmanager
def removing(what: str, folder: object) -> Iterator[None]:
    """As `writing`, where things are removed."""
    with _told(f"{what} cannot be removed", folder, None):
        yield


@contextmanager
def computing(what: str, folder: object) -> Iterator[None]:
    """Where other things are read as well: only errors that writing alone can bring are the disk's.

    Args:
        what: as for `writing`.
        folder: as for `writing`.

    Raises:
        StorageError: as for `writing`.
    """
    with _told(f"{what} cannot be written", folder, _OF_WRITING):
        yield


@contextmanager
def _told(problem: str, folder: object, numbers: set[int] | None) -> Iterator[None]:
    """Say an error of the system, or only those of some numbers, as a `StorageError`."""
    try:
        yield
    except Exception as error:
        number = _system_error_number(error)
        if number is None or (numbers is not None and number not in numbers):
            raise
        raise _refusal(problem, folder, number) from error


def _system_error_number(error: Exception) -> int | None:
    """The system's number of an error that was not yet put into words."""
    if isinstance(error, InputError | StorageError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _NUMBER_IN_TEXT.search(str(error))
    return None if match is None else int(match[1] or match[2])


def _refusal(problem: str, folder: object, number: int) -> StorageError:
    if number in _FULL:
        remedy = "Free some space on that disk"
    elif number == errno.EFBIG:
        remedy = "Allow larger files there (`ulimit -f`)"
    elif number in _LOCKED:
        remedy = "Make that folder writable"
    else:
        remedy = "Mend that disk"
    return StorageError(f"{folder}: {problem} ({os.strerror(number)}). {remedy} and run again.")
