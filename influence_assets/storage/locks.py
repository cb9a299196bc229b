"""Locks between processes and threads, which the operating system releases however their holder ends.

Each is a `flock` on a file that holds one line, which says that this product made it. Every holder opens the file
itself, so that the threads of one process exclude each other as processes do, and shared locks nest.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from influence_assets.errors import StorageError
from influence_assets.storage.disk_errors import writing

IN_USE = ".in_use"
PUBLISHING = ".lock"
CLAIM = ".claim"
LOCK_FILES = frozenset({PUBLISHING, CLAIM})
"""The names of locks in a partition's folder."""

_CONTENT = b"A lock of influence-assets; it may be removed while nothing runs.\n"
_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_alone: dict[str, int] = {}
"""Stores that a thread of this process has for itself, with that thread."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file alone; waits for it. Its folder is made where it is missing."""
    with _held(path, fcntl.LOCK_EX):
        yield


@contextmanager
def shared_lock(root: Path) -> Iterator[None]:
    """Hold a store together with others; waits while somebody has it alone. The thread that does may go in."""
    if holds_exclusively(root):
        yield
        return
    with _held(root / IN_USE, fcntl.LOCK_SH):
        yield


@contextmanager
def exclusive_lock(root: Path) -> Iterator[None]:
    """Hold a store while nobody else does.

    Raises:
        StorageError: somebody is at work, and still is after a few seconds.
    """
    if holds_exclusively(root):
        raise RuntimeError(f"this thread has {root} alone already")
    end = time.monotonic() + _PATIENCE_SECONDS
    with _held(root / IN_USE, fcntl.LOCK_EX, until=end):
        _alone[os.path.realpath(root)] = threading.get_ident()
        try:
            yield
        finally:
            del _alone[os.path.realpath(root)]


def holds_exclusively(root: Path) -> bool:
    """Whether this thread holds a store alone."""
    return _alone.get(os.path.realpath(root)) == threading.get_ident()


def is_lock(path: Path) -> bool:
    """Whether a file is a lock of a partition that was made here."""
    if path.name not in LOCK_FILES or path.is_symlink() or not path.is_file():
        return False
    return path.read_bytes() == _CONTENT


def is_held(folder: Path) -> bool:
    """Whether anybody holds a folder by `holding`."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a folder itself, so that `is_held` says so, without a file in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _held(path: Path, kind: int, *, until: float | None = None) -> Iterator[None]:
    with writing("a lock", path.parent):
        descriptor = _locked(path, kind, until)
    try:
        yield
    finally:
        # Not left to closing: a child that was forked meanwhile has the descriptor too, and may live on.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _locked(path: Path, kind: int, until: float | None) -> int:
    """A descriptor of the file that is at the path once the lock is held: while waiting it may have been replaced."""
    while True:
        descriptor = _opened(path)
        try:
            if until is None:
                fcntl.flock(descriptor, kind)
            else:
                _lock_until(descriptor, kind, until, path.parent)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    """A descriptor of the lock file, which is made with its content where it is missing."""
    flags = os.O_RDWR | os.O_CLOEXEC
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError, FileNotFoundError):
            return _made(path, flags)


def _made(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, _CONTENT)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _lock_until(descriptor: int, kind: int, end: float, root: Path) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                problem = f"{root}: somebody is at work in the store (a run, the UI or a question)"
                raise StorageError(f"{problem}. Wait until it is done, or stop it, and try again.") from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
