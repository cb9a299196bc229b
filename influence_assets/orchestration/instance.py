"""The Dagster instance that the command and the UI share, so that each shows the other's runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DatabaseError, OperationalError

from influence_assets.errors import InputError, StorageError
from influence_assets.storage.backend import open_backend
from influence_assets.study import Study

HOME = "DAGSTER_HOME"
SETTINGS = "dagster.yaml"
REASON_CHARACTERS = 300
"""The length at which reasons are cut, because databases quote whole statements in their errors."""
LOCATION = "influence_assets"
"""The name of the code location everywhere, so that the UI shows one history."""


def dagster_home(study: Study) -> Path:
    """Return the instance's folder: DAGSTER_HOME if it is set, else `.dagster` in the study's store."""
    named = os.environ.get(HOME)
    return Path(named) if named else home_in_store(study)


def home_in_store(study: Study) -> Path:
    """Return the folder of an instance of our own, inside the study's store."""
    return open_backend(study.storage.root).local_root / ".dagster"


def open_instance(study: Study) -> dg.DagsterInstance:
    """Return the instance, made with this project's settings if it does not exist yet.

    Settings of Dagster can name any code to be run. Those of an instance inside a store, which may come from somebody
    else, are therefore written anew, never read; settings of one's own belong into the folder that DAGSTER_HOME names.

    Raises:
        InputError: its folder cannot be written.
        StorageError: its settings or its databases are damaged.
    """
    home = dagster_home(study)
    settings = home / SETTINGS
    try:
        home.mkdir(parents=True, exist_ok=True)
        if home == home_in_store(study):
            _write_ours(settings)
        elif not settings.exists():
            settings.write_text(default_settings(), encoding="utf-8")
    except OSError as error:
        where = HOME if HOME in os.environ else "storage.root"
        problem = f"{home} cannot be written ({error.strerror or error})"
        raise InputError(where, problem, "Choose a folder that you may write to, or free some space there.") from error
    os.environ[HOME] = str(home)
    try:
        return dg.DagsterInstance.get()
    except Exception as error:
        if isinstance(error, OSError | OperationalError):  # such as a full disk
            raise
        raise _unusable(home, error) from error


def _write_ours(settings: Path) -> None:
    """Write the project's settings, and set others aside that are in their place."""
    ours = default_settings().encode()
    if settings.is_symlink() or not settings.is_file() or settings.read_bytes() != ours:
        if os.path.lexists(settings):
            settings.replace(settings.with_name(f"{SETTINGS}.not-read"))
        settings.write_bytes(ours)


@contextmanager
def damage_named(home: Path) -> Iterator[None]:
    """Raise errors of Dagster's damaged databases as an error that a person can correct.

    Args:
        home: the instance's folder.

    Raises:
        StorageError: one of its databases is damaged.
    """
    try:
        yield
    except DatabaseError as error:
        # An OperationalError is raised of a full disk or a locked file too.
        if isinstance(error, OperationalError) and not str(error.orig).startswith(("no such table", "no such column")):
            raise
        raise _unusable(home, error) from error


def _unusable(home: Path, error: Exception) -> StorageError:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:REASON_CHARACTERS]
    return StorageError(
        f"{home}: Dagster cannot use what it keeps there ({reason}). Move this folder aside and run again: it holds "
        "only the history of runs, and the results in the store do not depend on it."
    )


def default_settings() -> str:
    """Return the project's dagster.yaml, which is inside the package in a wheel, else at the repository's top."""
    packaged = files("influence_assets") / SETTINGS
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / SETTINGS).read_text(encoding="utf-8")
