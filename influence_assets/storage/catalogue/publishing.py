"""A changed copy of the catalogue, put in the place of the published one in a single step."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from influence_assets.durable import files, locks
from influence_assets.errors import StorageError
from influence_assets.storage.catalogue.reading import tells_of_damage, unreadable
from influence_assets.storage.catalogue.statements import statements

_DUCKDB_FORMAT = "v1.2.0"
"""Readers of the last DuckDB versions, not only of the newest, can open the file."""
_FICLONE = 0x40049409
"""Linux's request that a file share another's blocks until one of them is written to."""


class SpoiledError(StorageError):
    """The published file is damaged where it was to be changed."""


@contextmanager
def loader_lock(path: Path) -> Iterator[None]:
    """Keep other loaders of this catalogue waiting.

    Raises:
        StorageError: the folder cannot be written.
    """
    with _disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked(path.with_name(f"{path.name}.lock")):
            yield


@contextmanager
def changed_copy(path: Path, *, anew: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A transaction on a copy of the catalogue, which leaving the block publishes. To be used under `loader_lock`.

    After an exception what was published still stands, and nothing is left of the copy.

    Args:
        path: the published file, there or not.
        anew: begin with empty tables, not with what is published.

    Raises:
        StorageError: the disk refuses, or DuckDB does.
    """
    copy = _copy_of(path)
    _remove(copy)  # of a loader that was killed; none is alive while the lock is held
    try:
        with _disk_errors_named(path):
            if not anew:
                _copy(path, copy)
            with duckdb.connect(str(copy), config={"storage_compatibility_version": _DUCKDB_FORMAT}) as connection:
                connection.execute("set timezone = 'UTC'").complete()
                connection.begin()
                if anew:
                    for statement in (*statements("schema").values(), *statements("views").values()):
                        connection.execute(statement.sql).complete()
                yield connection
                connection.commit()
                connection.checkpoint()
            files.sync_file(copy)
            copy.replace(path)
            files.sync_folder(path.parent)
    finally:
        _remove(copy)


def remove_abandoned_load(path: Path) -> None:
    """Remove what a loader that was killed left beside the catalogue.

    Raises:
        StorageError: the folder cannot be written.
    """
    with loader_lock(path):
        _remove(_copy_of(path))


@contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, duckdb.Error) as error:
        if tells_of_damage(error):
            raise SpoiledError(str(unreadable(path, error))) from error
        remedy = "What was published still stands. Free some space, or mend the folder, and try again."
        raise StorageError(f"{path}: cannot be written ({str(error).strip()}). {remedy}") from error


def _copy_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.loading")


def _copy(source: Path, target: Path) -> None:
    """Copy a file, without its blocks where the file system can."""
    try:
        with source.open("rb") as whole, target.open("wb") as clone:
            fcntl.ioctl(clone.fileno(), _FICLONE, whole.fileno())
    except OSError:
        shutil.copyfile(source, target)


def _remove(copy: Path) -> None:
    """Remove an unpublished copy with what DuckDB keeps beside it."""
    copy.unlink(missing_ok=True)
    copy.with_name(f"{copy.name}.wal").unlink(missing_ok=True)
    shutil.rmtree(copy.with_name(f"{copy.name}.tmp"), ignore_errors=True)
