"""The store's own lock: shared by everyone who computes or reads artifacts, exclusive for removing them."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.names import STORE_LOCK
from influence_assets.storage.backend import Backend
from influence_assets.storage.disk_errors import writing

_PATIENCE_SECONDS = 5.0
_exclusive: dict[str, int] = {}
"""Locations of the stores that this process holds exclusively, with the thread that holds each."""


@contextmanager
def shared_lock(backend: Backend) -> Iterator[None]:
    """Hold a store's shared lock; wait while another thread or process holds it exclusively.

    The thread that holds the store exclusively may enter too.
    """
    if holds_exclusively(backend):
        yield
        return
    with named_lock(backend, STORE_LOCK, shared=True):
        yield


@contextmanager
def exclusive_lock(backend: Backend) -> Iterator[None]:
    """Hold a store exclusively.

    Raises:
        StorageError: the store is in use and still is after a few seconds.
    """
    if holds_exclusively(backend):
        raise RuntimeError(f"this thread has locked {backend.location} already")
    try:
        with named_lock(backend, STORE_LOCK, patience_seconds=_PATIENCE_SECONDS):
            _exclusive[backend.location] = threading.get_ident()
            try:
                yield
            finally:
                del _exclusive[backend.location]
    except _BusyError:
        problem = f"{backend.location}: somebody is at work in the store (a run, the UI or a question)"
        raise StorageError(f"{problem}. Wait until it is done, or stop it, and try again.") from None


def holds_exclusively(backend: Backend) -> bool:
    """Return whether this thread holds the store exclusively."""
    return _exclusive.get(backend.location) == threading.get_ident()


@contextmanager
def named_lock(
    backend: Backend, name: str, *, shared: bool = False, patience_seconds: float | None = None
) -> Iterator[None]:
    """Hold one of the store's locks.

    Raises:
        StorageError: the disk reports an error.
    """
    with ExitStack() as stack:
        with writing("a lock", backend.location):
            try:
                stack.enter_context(backend.locked(name, shared=shared, patience_seconds=patience_seconds))
            except TimeoutError:
                raise _BusyError from None
        yield


class _BusyError(StorageError):
    """Another thread or process still holds the lock."""
