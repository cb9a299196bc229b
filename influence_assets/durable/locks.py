"""Locks between processes and threads, which the operating system releases however their holder ends.

Each is a `flock` on a file whose one line says that this product made it. Every holder opens the file separately, so
that the threads of a process exclude each other as processes do, and shared locks nest.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CONTENT = b"A lock of influence-assets; it may be removed while nothing runs.\n"
_POLL_SECONDS = 0.05


@contextmanager
def locked(path: Path, *, shared: bool = False, patience_seconds: float | None = None) -> Iterator[None]:
    """Hold a lock file; it and its folder are created if they are missing.

    Args:
        path: the lock file.
        shared: hold it together with others who share it.
        patience_seconds: how long to wait for it; None waits forever.

    Raises:
        TimeoutError: another thread or process still holds it.
        OSError: the disk reports an error.
    """
    end = None if patience_seconds is None else time.monotonic() + patience_seconds
    descriptor = _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, end)
    try:
        yield
    finally:
        # Closing alone would not unlock it: a child that was forked meanwhile has the descriptor too, and may live on.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Lock a folder itself, without a file in it; `is_held` recognises it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether any thread or process holds a lock file, or a folder with `holding`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_lock(path: Path) -> bool:
    """Return whether a file is a lock of this product."""
    return path.is_file() and not path.is_symlink() and path.read_bytes() == _CONTENT


def _locked(path: Path, kind: int, end: float | None) -> int:
    """Lock the file and return its descriptor; start over if the file was replaced during the wait."""
    while True:
        descriptor = _opened(path)
        try:
            if end is None:
                fcntl.flock(descriptor, kind)
            else:
                _lock_until(descriptor, kind, end)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Open the lock file, creating it with its content if it is missing, and return its descriptor."""
    from influence_assets.durable.files import make_with_folders  # which tells by these locks who is alive

    flags = os.O_RDWR | os.O_CLOEXEC
    while True:
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        with suppress(FileExistsError, FileNotFoundError):
            if path.parent.is_dir():
                return _create(path, flags)
            make_with_folders(path, lambda place: os.close(_created(place, flags)))


def _create(path: Path, flags: int) -> int:
    """Create the lock file with its content in one step, and return its descriptor.

    It is written under a temporary name: a process that is killed between creating and writing a file would leave an
    empty one, which nobody knows to be a lock.

    Raises:
        FileExistsError: it exists by now.
    """
    from influence_assets.durable.temporary import temporary_beside  # which tells by these locks who is alive

    temporary = temporary_beside(path)
    try:
        descriptor = _created(temporary, flags)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            os.close(descriptor)
            raise
        except OSError:  # a file system without hard links
            os.close(descriptor)
            return _created(path, flags)
        return descriptor
    finally:
        temporary.unlink(missing_ok=True)


def _created(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, _CONTENT)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _lock_until(descriptor: int, kind: int, end: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
