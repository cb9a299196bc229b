"""Damage in the databases in which the UI's instance keeps the history of runs."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from influence_assets.errors import StorageError

_HEADER = b"SQLite format 3\0"

OWN = ".dagster"
"""The name of the instance's folder in a store."""

_OF_EVERY_RUN = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
"""The databases that every run writes to. Each run has one more, which only its own page shows."""
_OF_EACH_RUN = "history/runs/*.db"


def history_folder(store_root: Path) -> Path:
    """Return the instance's folder: DAGSTER_HOME if it is set, else `.dagster` in the store."""
    return Path(os.environ.get("DAGSTER_HOME") or store_root / OWN)


def damaged_databases(folder: Path, *, thoroughly: bool) -> dict[Path, str]:
    """Return what is wrong with each damaged SQLite database of an instance; other files in its folder are not read.

    A database that is in use or cannot be opened for other reasons is not reported, because whoever opens it says so.

    Args:
        folder: the instance's folder, which need not exist.
        thoroughly: whether databases of single runs are read too, and indices compared with their tables.
    """
    paths = {folder / name for name in _OF_EVERY_RUN}
    if thoroughly:
        paths.update(folder.glob(_OF_EACH_RUN))
    found = {path: _damage(path, thoroughly=thoroughly) for path in sorted(paths) if path.is_file()}
    return {path: problem for path, problem in found.items() if problem is not None}


def refuse_damaged_history(folder: Path) -> None:
    """Raise if a database that every run uses is damaged, also where this run would not have read it.

    Raises:
        StorageError: one is; the error says what to do.
    """
    for path, problem in damaged_databases(folder, thoroughly=False).items():
        what = f"Dagster cannot use what it keeps there ({path.relative_to(folder)}: {problem})"
        raise StorageError(f"{folder}: {what}. {remedy(folder, 'this folder')}")


def remedy(folder: Path, named: str) -> str:
    """Return what to do about damage in an instance's folder, which is named so in the sentence.

    A folder that is not the study's own may hold what other projects need.
    """
    what = named if folder.name == OWN else "the damaged file"
    return (
        f"Move {what} aside and run again: it holds only the history of runs, and the results in the store do not "
        "depend on it."
    )


def _damage(path: Path, *, thoroughly: bool) -> str | None:
    pragma = "integrity_check" if thoroughly else "quick_check"
    try:
        if path.stat().st_size and not _begins_as_a_database(path):
            return "is not a database"
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            lines = [str(line) for (line,) in connection.execute(f"pragma {pragma}(1)")]
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None if lines == ["ok"] else " ".join(" ".join(lines).split())


def _begins_as_a_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HEADER)) == _HEADER
