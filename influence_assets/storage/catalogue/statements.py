"""The SQL files and their headers. Nothing here formats a value into SQL.

They are in the package's `sql/`, and in folders of the same layout beside assets that define tables of their own.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from influence_assets.errors import InputError

Kind = Literal["schema", "views", "load", "changes", "checks", "cookbook"]
_HASHED: tuple[Kind, ...] = ("schema", "views", "load", "changes")
_added_folders: list[Path] = []


@dataclass(frozen=True)
class Statement:
    """One SQL file.

    Args:
        name: the file's name without `.sql`; for schema, views and load the table or view.
        path: the file.
        sql: the whole file.
        purpose: what it holds or answers, from the file's header.
        grain: the columns that identify a row, or why there are none.
        parameters: the meaning of each bound parameter that the header describes, by name without `$`.
    """

    name: str
    path: Path
    sql: str
    purpose: str
    grain: str
    parameters: Mapping[str, str]


def statements(kind: Kind) -> Mapping[str, Statement]:
    """Return all files of one kind by name, in the order to run them: the package's, then those of added folders.

    Raises:
        InputError: two files have the same name.
    """
    return _statements(kind, (sql_folder(), *_added_folders))


def own_statement(kind: Kind, name: str) -> str:
    """Return one of the package's own statements; nothing that extensions added is read."""
    return _statements(kind, (sql_folder(),))[name].sql


def use_folders(folders: Iterable[Path]) -> None:
    """From now on, also read the statements in these folders, and no longer those in folders added before.

    Args:
        folders: each with `schema/`, `load/`, `views/`, `checks/` or `cookbook/`.

    Raises:
        InputError: a folder does not exist.
    """
    distinct = list(dict.fromkeys(folders))
    for folder in distinct:
        if not folder.is_dir():
            raise InputError(str(folder), "is not a folder", "Correct the `sql` of the asset that names it.")
    _added_folders[:] = distinct


@cache
def _statements(kind: Kind, folders: tuple[Path, ...]) -> Mapping[str, Statement]:
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted((folder / kind).glob("*.sql")):
            if file.stem in files:
                raise InputError(str(file), f"{files[file.stem]} has the same name", "Rename one of them.")
            files[file.stem] = file
    return MappingProxyType({name: _read(file) for name, file in files.items()})


def column_comments(schema: str) -> Mapping[str, str]:
    """Return the description of each column of a table, from the comments in its schema's SQL."""
    comments = re.findall(r"comment on column \w+\.(\w+) is\s+'((?:[^']|'')*)'", schema)
    return {column: text.replace("''", "'") for column, text in comments}


def schema_version() -> str:
    """Return the hash of all statements that create or fill the catalogue; a file with another hash is rebuilt."""
    digest = hashlib.sha256()
    for kind in _HASHED:
        for name, statement in statements(kind).items():
            digest.update("\0".join((kind, name, statement.sql, "")).encode())
    return digest.hexdigest()[:32]


def sql_folder() -> Path:
    """Return the folder of SQL files, which is inside the package if it was installed from a wheel, else beside it.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "sql", package.parent / "sql"):
        if (folder / "schema").is_dir():
            return folder
    raise FileNotFoundError(f"no sql folder in or beside {package}: the installation is incomplete")


def _read(path: Path) -> Statement:
    """Read a file and its header: its purpose, `$name: …` for each parameter, and `grain: …`."""
    sql = path.read_text(encoding="utf-8")
    purpose: list[str] = []
    parameters: dict[str, str] = {}
    grain = ""
    for line in sql.splitlines():
        if not line.startswith("-- "):
            break
        text = line.removeprefix("-- ")
        if text.startswith("grain: "):
            grain = text.removeprefix("grain: ").strip("()")
        elif text.startswith("$"):
            name, meaning = text.removeprefix("$").split(": ", 1)
            parameters[name] = meaning
        else:
            purpose.append(text)
    return Statement(path.stem, path, sql, " ".join(purpose), grain, MappingProxyType(parameters))
