"""The catalogue: a DuckDB file built from artifacts, published whole, and asked read-only.

DuckDB has either one writer or many readers. So the one loader changes a copy in one transaction and renames it over
the published file: a reader is never kept waiting and never sees half a load.
"""

import glob
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import polars as pl

from influence_assets.errors import InputError, StorageError
from influence_assets.storage import files
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.statements import Statement, schema_version, statements

_DUCKDB_FORMAT = "v1.2.0"
"""Readers of the last DuckDB versions, not only of the newest, can open the file."""
_SAFE = {"python_enable_replacements": False, "autoload_known_extensions": False, "autoinstall_known_extensions": False}
_VIOLATIONS_KEPT = 1000
_FROM_MANIFESTS = ("materializations", "materialization_inputs", "catalogue")


@dataclass(frozen=True)
class CatalogueChange:
    """What a load changed.

    Args:
        loaded: artifacts whose rows are new.
        removed: artifacts whose rows went.
        unchanged: artifacts whose rows stayed as they were.
        rows: rows inserted into each table.
        seconds: how long it took.
        content_version: hash of what the catalogue now holds.
    """

    loaded: int
    removed: int
    unchanged: int
    content_version: str
    rows: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Content:
    """What the catalogue shall hold: artifacts by materialization_id, of which study, in which generation.

    Of the ancestors, only the manifests are loaded.
    """

    study: str
    wanted: Mapping[int, Artifact]
    ancestors: Mapping[int, Artifact]
    current_generation: int | None

    @property
    def entries(self) -> set[tuple[int, bool]]:
        """Each artifact's materialization_id, and whether its rows are wanted."""
        return {(number, True) for number in self.wanted} | {(number, False) for number in self.ancestors}

    @property
    def version(self) -> str:
        said = [self.study, schema_version(), self.current_generation, sorted(self.entries)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def load_catalogue(
    path: Path,
    wanted: Sequence[Artifact],
    study: str,
    current_generation: int | None,
    ancestors: Sequence[Artifact] = (),
) -> CatalogueChange:
    """Make the catalogue hold the rows of these artifacts and of no others; do nothing where it does already.

    A table's rows come from every artifact that has a Parquet file of its name. Loads wait for each other.

    Args:
        path: the DuckDB file, there or not.
        wanted: the artifacts, in any order.
        study: the study's name.
        current_generation: the generation that the views show, None where there is none yet.
        ancestors: what the artifacts were computed from; only their manifests are loaded, for lineage.

    Raises:
        StorageError: a table of an artifact cannot be loaded, or the disk refuses. What was published still stands.
    """
    started = time.monotonic()
    rows_of = {artifact.key.materialization_id: artifact for artifact in wanted}
    others = {artifact.key.materialization_id: artifact for artifact in ancestors}
    others = {number: artifact for number, artifact in others.items() if number not in rows_of}
    content = _Content(study, rows_of, others, current_generation)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.exclusive_lock(path.with_name(f"{path.name}.lock")):
        standing = _standing_versions(path)
        if standing == (schema_version(), content.version):
            return CatalogueChange(0, 0, len(content.entries), content.version, {}, time.monotonic() - started)
        copy = path.with_name(f".{path.name}.loading")
        _remove(copy)  # of a loader that was killed; none is alive while the lock is held
        try:
            if standing is not None and standing[0] == schema_version():
                shutil.copyfile(path, copy)
            loaded, removed, rows = _load_into(copy, content)
            files.sync_file(copy)
            copy.replace(path)
            files.sync_folder(path.parent)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error}). Free some space or mend the folder.") from error
        finally:
            _remove(copy)
    unchanged = len(content.entries) - loaded
    return CatalogueChange(loaded, removed, unchanged, content.version, rows, time.monotonic() - started)


def query(path: Path, sql: str, parameters: Mapping[str, object] | Sequence[object] | None = None) -> pl.DataFrame:
    """The answer to an SQL statement, which can read the catalogue and nothing else, and write nothing.

    Args:
        path: the DuckDB file.
        sql: one statement or several, of which the last one's answer counts.
        parameters: values of `$name` by name, or of `?` in order.

    Raises:
        StorageError: there is no catalogue, or it is damaged.
        InputError: DuckDB refuses the statement, or its answer has a type that polars lacks.
    """
    with _reader(path) as connection:
        try:
            answer = connection.sql(sql, params=parameters)
            # A statement that answers nothing, such as an empty one, has no relation.
            frame: pl.DataFrame = pl.DataFrame() if answer is None else answer.pl()
        except (duckdb.Error, pl.exceptions.PolarsError) as error:  # polars has no intervals of months, for one
            remedy = "`show tables` and `describe top_influences` say what is there; it can only be read."
            raise InputError("SQL", str(error).strip(), remedy) from error
    return frame


def run_checks(path: Path) -> dict[str, pl.DataFrame]:
    """The rows that violate each check, at most a thousand of each; an empty frame is a check that passes.

    Raises:
        StorageError: there is no catalogue, or it is damaged.
    """
    with _reader(path) as connection:
        return {
            name: connection.sql(statement.sql).limit(_VIOLATIONS_KEPT).pl()
            for name, statement in statements("checks").items()
        }


def check_names() -> tuple[str, ...]:
    """The names of all checks, each a file of `sql/checks/`."""
    return tuple(statements("checks"))


def cookbook() -> Mapping[str, Statement]:
    """Questions that are ready to ask, by name, with what their parameters mean."""
    return statements("cookbook")


def ask_cookbook(path: Path, name: str, values: Mapping[str, str]) -> pl.DataFrame:
    """The answer to one of the cookbook's questions.

    Args:
        path: the DuckDB file.
        name: of the question.
        values: of all its parameters, as text; numbers are made of those that look like one.

    Raises:
        InputError: there is no such question, or its parameters are others.
    """
    questions = cookbook()
    if name not in questions:
        raise InputError("the cookbook", f"has no question {name!r}", f"Its questions: {', '.join(questions)}.")
    wanted = questions[name].parameters
    if set(values) != set(wanted):
        described = ", ".join(f"{parameter} ({what})" for parameter, what in wanted.items()) or "nothing"
        raise InputError(name, f"was given {', '.join(values) or 'nothing'}", f"It asks for: {described}.")
    bound = {parameter: int(value) if value.lstrip("-").isdigit() else value for parameter, value in values.items()}
    return query(path, questions[name].sql, bound)


@contextmanager
def _reader(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that can read the catalogue and nothing else.

    The file is attached to a database in memory, because DuckDB gives a second connection to the same path the file
    that the first one opened, even after another was renamed over it.
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
            remedy = "Build it again: `influence rebuild-catalogue`."
            raise StorageError(f"{path}: is not a readable catalogue ({error}). {remedy}") from error
        for safety in ("use influence", "set enable_external_access = false", "set lock_configuration = true"):
            connection.execute(safety).complete()
        yield connection


def standing_content_version(path: Path) -> str | None:
    """The published `CatalogueChange.content_version`; None where there is no catalogue that can be used."""
    standing = _standing_versions(path)
    return standing[1] if standing is not None and standing[0] == schema_version() else None


def _standing_versions(path: Path) -> tuple[str, str] | None:
    """Schema and content version of the published file; None where there is none that can be built upon."""
    if not path.is_file():
        return None
    try:
        with _reader(path) as connection:
            found = connection.execute("select schema_version, content_version from catalogue").fetchall()
    except (StorageError, duckdb.Error):
        return None
    return (str(found[0][0]), str(found[0][1])) if len(found) == 1 else None


def _load_into(copy: Path, content: _Content) -> tuple[int, int, dict[str, int]]:
    """Change the copy in one transaction: the numbers of artifacts loaded and removed, and rows of each table."""
    try:
        with duckdb.connect(str(copy), config={"storage_compatibility_version": _DUCKDB_FORMAT}) as connection:
            connection.execute("set timezone = 'UTC'").complete()
            connection.begin()
            if not connection.execute("select 1 from duckdb_tables() where table_name = 'catalogue'").fetchall():
                for statement in (*statements("schema").values(), *statements("views").values()):
                    connection.execute(statement.sql).complete()
            held = connection.execute("select materialization_id, is_loaded from materializations").fetchall()
            removed, new = set(held) - content.entries, sorted(content.entries - set(held))
            _delete(connection, {number for number, _ in removed})
            rows = _insert_manifests(connection, content, [number for number, _ in new])
            for artifact in (content.wanted[number] for number, with_rows in new if with_rows):
                for table, count in _insert_tables(connection, artifact).items():
                    rows[table] = rows.get(table, 0) + count
            _describe(connection, content)
            connection.commit()
            connection.checkpoint()
    except duckdb.Error as error:
        raise StorageError(f"{copy}: the catalogue cannot be built ({error}).") from error
    return len(new), len(removed), rows


def _delete(connection: duckdb.DuckDBPyConnection, removed: set[int]) -> None:
    if not removed:
        return
    for table in statements("load").keys() - {"catalogue"}:
        # The table's name is that of a file of this package.
        sql = f"delete from {table} where materialization_id in (select unnest($removed))"  # noqa: S608
        connection.execute(sql, {"removed": sorted(removed)}).complete()


def _insert_tables(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> dict[str, int]:
    """Load every table of an artifact that the catalogue knows; the rows of each."""
    rows = {}
    for table in sorted(artifact.manifest.rows.keys() & statements("load").keys() - set(_FROM_MANIFESTS)):
        parquet = artifact.table_path(table)
        if files.sha256_of(parquet) != artifact.manifest.files[parquet.name].sha256:
            remedy = f"Delete {artifact.folder} and compute it again: `influence run`."
            raise StorageError(f"{parquet}: is not as it was written. {remedy}")
        bound = {"paths": [glob.escape(str(parquet))], "materialization_id": artifact.key.materialization_id}
        try:
            rows[table] = _inserted(connection, table, bound)
        except duckdb.Error as error:
            raise StorageError(f"{parquet}: cannot be loaded into {table} ({error}).") from error
    return rows


def _insert_manifests(connection: duckdb.DuckDBPyConnection, content: _Content, new: Sequence[int]) -> dict[str, int]:
    """Load what the manifests say; the registered names are those that the two statements read."""
    artifacts = [content.wanted.get(number) or content.ancestors[number] for number in new]
    is_loaded = pl.Series("is_loaded", [number in content.wanted for number in new], pl.Boolean)
    connection.register("new_materializations", _materializations(artifacts).with_columns(is_loaded))
    connection.register("new_materialization_inputs", _materialization_inputs(artifacts))
    rows = {table: _inserted(connection, table, None) for table in ("materializations", "materialization_inputs")}
    connection.unregister("new_materializations")
    connection.unregister("new_materialization_inputs")
    return rows


def _describe(connection: duckdb.DuckDBPyConnection, content: _Content) -> None:
    """Mark the current generation and say what the file now holds."""
    current = {"current": content.current_generation}
    mark = "update generations set is_current = coalesce(generation_id = $current::integer, false)"
    connection.execute(mark, current).complete()
    connection.execute("delete from catalogue").complete()
    said = {"study": content.study, "schema_version": schema_version(), "content_version": content.version}
    _inserted(connection, "catalogue", said)


def _inserted(connection: duckdb.DuckDBPyConnection, table: str, bound: Mapping[str, object] | None) -> int:
    counted = connection.execute(statements("load")[table].sql, bound).fetchall()
    return int(counted[0][0])


def _materializations(artifacts: Sequence[Artifact]) -> pl.DataFrame:
    columns = pl.Schema(
        {
            "materialization_id": pl.Int64(),
            **{name: pl.String() for name in ("asset", "partition", "data_version", "code_version", "run_id")},
            **{name: pl.String() for name in ("host", "device")},
            "started_at": pl.Datetime("us", "UTC"),
            "seconds": pl.Float64(),
            **{name: pl.Int64() for name in ("peak_memory_bytes", "bytes", "rows")},
            "settings": pl.String(),
        }
    )
    counted = [
        {
            **artifact.manifest.model_dump(include=set(columns) - {"rows", "settings"}),
            "materialization_id": artifact.key.materialization_id,
            "rows": sum(artifact.manifest.rows.values()),
            "settings": json.dumps(artifact.manifest.settings),
        }
        for artifact in artifacts
    ]
    return pl.DataFrame(counted, schema=columns)


def _materialization_inputs(artifacts: Sequence[Artifact]) -> pl.DataFrame:
    edges = [
        (
            artifact.key.materialization_id,
            used.materialization_id,
            used.asset,
            used.partition,
            used.data_version,
        )
        for artifact in artifacts
        for used in artifact.manifest.inputs
    ]
    columns = pl.Schema(
        {
            "materialization_id": pl.Int64(),
            "input_materialization_id": pl.Int64(),
            "input_asset": pl.String(),
            "input_partition": pl.String(),
            "input_data_version": pl.String(),
        }
    )
    return pl.DataFrame(edges, schema=columns, orient="row")


def _remove(copy: Path) -> None:
    """Remove an unpublished copy with what DuckDB keeps beside it."""
    copy.unlink(missing_ok=True)
    copy.with_name(f"{copy.name}.wal").unlink(missing_ok=True)
    shutil.rmtree(copy.with_name(f"{copy.name}.tmp"), ignore_errors=True)
