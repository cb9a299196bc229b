"""Queries of the published catalogue. They can read that file and nothing else, and write nothing."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl

from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue.content import Standing
from influence_assets.storage.catalogue.rejected import naming_file
from influence_assets.storage.catalogue.statements import Statement, schema_version, statements

_SAFE = {"python_enable_replacements": False, "autoload_known_extensions": False, "autoinstall_known_extensions": False}
_OF_DAMAGE = ("Corrupt database file", "Could not read enough bytes", "not a valid DuckDB database file")
"""What DuckDB says of a block with a wrong checksum, of a file that was cut off, and of one with another header."""
_MOST_VIOLATIONS = 1000
_NEAREST = 3
"""How many ids an error names that resemble one that does not exist."""


def query(path: Path, sql: str, parameters: Mapping[str, object] | Sequence[object] | None = None) -> pl.DataFrame:
    """Return the result of an SQL statement, which can read the catalogue and nothing else, and write nothing.

    Args:
        path: the DuckDB file.
        sql: one statement, or several, of which the last one's result is returned.
        parameters: values of `$name` by name, or of `?` in order.

    Raises:
        StorageError: there is no catalogue, or it is damaged.
        InputError: DuckDB rejects the statement, or its result has a type that polars lacks.
    """
    with _reader(path) as connection:
        try:
            answer = connection.sql(sql, params=parameters)
            # A statement without a result, such as an empty one, has no relation.
            frame: pl.DataFrame = pl.DataFrame() if answer is None else answer.pl()
        except (duckdb.Error, pl.exceptions.PolarsError) as error:  # polars has no intervals of months, for one
            if tells_of_damage(error):
                raise unreadable(path, error) from error
            remedy = "`show tables` and `describe top_influences` list what there is; it can only be read."
            raise InputError("SQL", str(error).strip(), remedy) from error
    return frame


def run_checks(path: Path) -> dict[str, pl.DataFrame]:
    """Return the rows that violate each check, at most a thousand for each; a check passes if it has none.

    Raises:
        StorageError: there is no catalogue, or it is damaged.
        InputError: DuckDB rejects the statement of a check.
    """
    with _reader(path) as connection:
        try:
            return {name: _violations(connection, statement) for name, statement in statements("checks").items()}
        except duckdb.Error as error:
            if not tells_of_damage(error):
                raise
            raise unreadable(path, error) from error


def _violations(connection: duckdb.DuckDBPyConnection, statement: Statement) -> pl.DataFrame:
    with naming_file(statement):
        violations: pl.DataFrame = connection.sql(statement.sql).limit(_MOST_VIOLATIONS).pl()
    return violations


def check_names() -> tuple[str, ...]:
    """Return the names of all checks, each a file of `sql/checks/`."""
    return tuple(statements("checks"))


def cookbook() -> Mapping[str, Statement]:
    """Return the prepared queries by name, with the meaning of their parameters."""
    return statements("cookbook")


def ask_cookbook(path: Path, name: str, values: Mapping[str, str]) -> pl.DataFrame:
    """Return the result of one of the cookbook's prepared queries.

    Args:
        path: the DuckDB file.
        name: the query's name.
        values: values of all its parameters, as text; the query itself casts those that are numbers.

    Raises:
        InputError: there is no such query, it has other parameters, a value cannot be cast, or there is nothing with
            an id that was given; the error names the nearest ids.
    """
    questions = cookbook()
    if name not in questions:
        raise InputError("the cookbook", f"has no question {name!r}", f"Its questions: {', '.join(questions)}.")
    parameters = questions[name].parameters
    described = ", ".join(f"{parameter} ({meaning})" for parameter, meaning in parameters.items()) or "nothing"
    if set(values) != set(parameters):
        raise InputError(name, f"was given {', '.join(values) or 'nothing'}", f"It asks for: {described}.")
    try:
        rows = query(path, questions[name].sql, dict(values))
    except InputError as error:
        raise InputError(name, error.problem, f"It asks for: {described}.") from error
    if rows.is_empty():
        for parameter, meaning in parameters.items():
            if (table := re.search(r"from the table (\w+)", meaning)) is not None:
                refuse_unknown(path, table[1], parameter, values[parameter])
    return rows


def refuse_unknown(path: Path, table: str, column: str, value: str) -> None:
    """Raise if no row of a table has this value in a column, which names something by an id.

    Raises:
        InputError: there is none; the error names the nearest ids.
        StorageError: there is no catalogue, or it is damaged.
    """
    sql = f"""
        select {quoted(column)}::varchar as id
        from {quoted(table)}
        group by id
        order by id = $value desc, jaro_winkler_similarity(id, $value) desc, id
        limit {_NEAREST}
    """  # noqa: S608  # both names are our own files'
    nearest = query(path, sql, {"value": value})["id"].to_list()
    if value not in nearest:
        remedy = f"The nearest: {', '.join(map(repr, nearest))}." if nearest else f"The table {table} is empty."
        raise InputError(f"{column} {value!r}", f"is not in the table {table}", remedy)


@contextmanager
def _reader(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection that can read the catalogue and nothing else.

    The file is attached to a database in memory: a second direct connection to the same path would get the file that
    the first one opened, even after another was renamed over it.
    """
    if not path.is_file():
        raise StorageError(f"{path}: there is no catalogue yet. Make one: `influence run`.")
    with (
        tempfile.TemporaryDirectory(prefix="influence-sql-") as spill,
        duckdb.connect(":memory:", config={**_SAFE, "temp_directory": spill}) as connection,
    ):
        try:
            connection.execute("attach $path as influence (read_only)", {"path": str(path)}).complete()
        except duckdb.Error as error:
            if "Conflicting lock" in str(error):
                raise _held_by_another(path, error) from error
            raise unreadable(path, error) from error
        if write_ahead_log(path).exists():
            raise StorageError(
                f"{write_ahead_log(path)}: was left by a program that changed the catalogue, and DuckDB reads its "
                "changes as if they were published. Publish the study's own rows again: `influence run`."
            )
        for safety in ("use influence", "set enable_external_access = false", "set lock_configuration = true"):
            connection.execute(safety).complete()
        yield connection


def write_ahead_log(path: Path) -> Path:
    """Return where DuckDB keeps the changes of a program that opened the file for writing, until it closes the file.

    The catalogue's own loader writes to a copy and leaves none.
    """
    return path.with_name(f"{path.name}.wal")


def _held_by_another(path: Path, error: Exception) -> StorageError:
    holder = re.search(r"held in (.+?) \(PID (\d+)\)", str(error))
    program = "another program" if holder is None else f"{holder[1]} (process {holder[2]})"
    return StorageError(
        f"{path}: {program} holds the catalogue open for writing, so that nobody else can read it. Close it there, and "
        "open the file read-only, as with `duckdb -readonly`."
    )


def loaded_keys(path: Path) -> list[ArtifactKey]:
    """Return the artifacts whose rows are in the published catalogue; none if there is no catalogue.

    Raises:
        StorageError: the catalogue is damaged.
    """
    if not path.is_file():
        return []
    sql = "select asset, partition, data_version from materializations where is_loaded order by all"
    with _reader(path) as connection:
        try:
            return [ArtifactKey(*row) for row in connection.execute(sql).fetchall()]
        except duckdb.Error as error:
            raise unreadable(path, error) from error


def has_holes(path: Path) -> bool:
    """Return whether bytes of deleted rows may still be in the file; `load_catalogue` with `anew` leaves none."""
    if not path.is_file():
        return False
    try:
        with _reader(path) as connection:
            rows = connection.execute("select has_holes from catalogue").fetchall()
    except (StorageError, duckdb.Error):
        return True  # an unreadable file may contain anything
    return rows != [(False,)]


def damaged_tables(path: Path) -> dict[str, str]:
    """Read every value of every table, and return the error of each table that cannot be read.

    DuckDB keeps a checksum of each block and checks it on reading. The tables are those that the file has, which may
    be of another version of the schema.

    Raises:
        StorageError: there is no catalogue, or it cannot be opened.
    """
    damaged = {}
    for table in _table_names(path):
        with _reader(path) as connection:  # one for each table: an error may leave the connection unusable
            try:
                connection.execute(f"select max(hash(whole)) from {quoted(table)} as whole").fetchall()  # noqa: S608
            except duckdb.Error as error:
                damaged[table] = str(error).strip()
    return damaged


def quoted(name: str) -> str:
    """Return a name as an identifier of SQL, for names that come from a file and cannot be bound."""
    return '"' + name.replace('"', '""') + '"'


def _table_names(path: Path) -> list[str]:
    sql = "select table_name from duckdb_tables() where database_name = 'influence' order by all"
    with _reader(path) as connection:
        try:
            return [str(name) for (name,) in connection.execute(sql).fetchall()]
        except duckdb.Error as error:
            raise unreadable(path, error) from error


def standing_content_version(path: Path) -> str | None:
    """Return the published catalogue's content version, or None if there is no usable catalogue."""
    standing = standing_of(path)
    return standing.content_version if standing is not None and standing.schema_version == schema_version() else None


def standing_of(path: Path) -> Standing | None:
    """Return the versions that the published file records about itself, or None if there is no usable file."""
    if not path.is_file():
        return None
    sql = "select schema_version, content_version, states_version from catalogue"
    try:
        with _reader(path) as connection:
            rows = connection.execute(sql).fetchall()
    except (StorageError, duckdb.Error):
        return None
    return Standing(*rows[0]) if len(rows) == 1 else None


def tells_of_damage(error: Exception) -> bool:
    """Return whether an error of DuckDB means that the file is not as it was written: other bytes, or too few."""
    if "Could not write file" in str(error):  # such as a full disk in the middle of a checkpoint, which is fatal too
        return False
    is_of_reading = isinstance(error, duckdb.SerializationException | duckdb.FatalException)
    return is_of_reading or any(words in str(error) for words in _OF_DAMAGE)


def unreadable(path: Path, error: Exception) -> StorageError:
    """Return the error for a damaged file, which says how to rebuild it."""
    return StorageError(
        f"{path}: is not a readable catalogue ({error}). Build it again: `influence rebuild-catalogue`."
    )
