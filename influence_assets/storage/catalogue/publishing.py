"""Publishing: a copy of the catalogue is changed and then replaces the published file in a single step."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from influence_assets.durable import files, locks
from influence_assets.errors import StorageError
from influence_assets.storage.catalogue.publication import is_as_published, note_publication
from influence_assets.storage.catalogue.reading import tells_of_damage, unreadable, write_ahead_log
from influence_assets.storage.catalogue.rejected import naming_file
from influence_assets.storage.catalogue.statements import statements

_DUCKDB_FORMAT = "v1.2.0"
"""The storage format of files, which older versions of DuckDB can open too."""
_FICLONE = 0x40049409
"""Linux's request to let a file share another's blocks until one of them is written."""


class SpoiledError(StorageError):
    """The published file is too damaged to be changed."""


@contextmanager
def loader_lock(path: Path) -> Iterator[None]:
    """Hold the lock that makes other loaders of this catalogue wait.

    Raises:
        StorageError: the folder cannot be written.
    """
    with _disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked(path.with_name(f"{path.name}.lock")):
            yield


@contextmanager
def changed_copy(path: Path, *, anew: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a transaction on a copy of the catalogue; leaving the block publishes the copy. Hold `loader_lock`.

    After an exception the published file is unchanged, and nothing is left of the copy.

    Args:
        path: the published file, which need not exist.
        anew: begin with empty tables, not with a copy of what is published.

    Raises:
        StorageError: the disk or DuckDB reports an error.
        InputError: DuckDB rejects a statement of the schema or of a view.
    """
    copy = _copy_of(path)
    is_good = anew or is_as_published(path)
    _remove(copy)  # a killed loader may have left it; no other is alive while the lock is held
    try:
        with _disk_errors_named(path):
            if not anew:
                _copy(path, copy)
            with duckdb.connect(str(copy), config={"storage_compatibility_version": _DUCKDB_FORMAT}) as connection:
                connection.execute("set timezone = 'UTC'").complete()
                connection.begin()
                if anew:
                    for statement in (*statements("schema").values(), *statements("views").values()):
                        with naming_file(statement):
                            connection.execute(statement.sql).complete()
                yield connection
                connection.commit()
                connection.checkpoint()
            files.sync_file(copy)
            # DuckDB would read the changes that another program left beside the old file into the new one.
            write_ahead_log(path).unlink(missing_ok=True)
            copy.replace(path)
            if is_good:  # what another program changed stays in doubt
                note_publication(path, is_built_anew=anew)
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
        remedy = "The published catalogue is unchanged. Free some space, or make the folder writable, and try again."
        raise StorageError(f"{path}: cannot be written ({str(error).strip()}). {remedy}") from error


def _copy_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.loading")


def _copy(source: Path, target: Path) -> None:
    """Copy a file, sharing its blocks if the file system can."""
    try:
        with source.open("rb") as whole, target.open("wb") as clone:
            fcntl.ioctl(clone.fileno(), _FICLONE, whole.fileno())
    except OSError:
        shutil.copyfile(source, target)


def _remove(copy: Path) -> None:
    """Remove an unpublished copy with what DuckDB keeps beside it."""
    copy.unlink(missing_ok=True)
    write_ahead_log(copy).unlink(missing_ok=True)
    shutil.rmtree(copy.with_name(f"{copy.name}.tmp"), ignore_errors=True)
