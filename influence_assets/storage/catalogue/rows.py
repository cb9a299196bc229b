"""Loading of rows into the catalogue's tables, from manifests and from many Parquet files at a time."""

import glob
import json
from collections.abc import Mapping, Sequence, Set

import duckdb
import polars as pl

from influence_assets.errors import StorageError
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.storage.catalogue.rejected import naming_file
from influence_assets.storage.catalogue.statements import statements

_FROM_ELSEWHERE = {"materializations", "materialization_inputs", "catalogue", "tombstones", "partition_states"}
_MATERIALIZATIONS = pl.Schema(
    {
        "materialization_id": pl.Int64(),
        **{name: pl.String() for name in ("asset", "partition", "data_version", "code_version", "run_id")},
        **{name: pl.String() for name in ("host", "device")},
        "started_at": pl.Datetime("us", "UTC"),
        **{name: pl.Float64() for name in ("seconds", "cpu_seconds")},
        **{name: pl.Int64() for name in ("peak_memory_bytes", "bytes", "rows")},
        **{name: pl.String() for name in ("settings", "content_hash")},
        "holds_text": pl.Boolean(),
        "is_loaded": pl.Boolean(),
    }
)
_INPUTS = pl.Schema(
    {
        **{name: pl.Int64() for name in ("materialization_id", "input_materialization_id")},
        **{name: pl.String() for name in ("input_asset", "input_partition", "input_data_version")},
    }
)


def tables_of_artifacts() -> list[str]:
    """Return the tables that are loaded from artifacts' Parquet files of the same name."""
    return sorted(statements("load").keys() - _FROM_ELSEWHERE)


def insert_frame(connection: duckdb.DuckDBPyConnection, table: str, frame: pl.DataFrame) -> int:
    """Load a frame with the table's load statement, which reads `new_<table>`, and return the number of rows."""
    connection.register(f"new_{table}", frame)
    count = _inserted(connection, table, None)
    connection.unregister(f"new_{table}")
    return count


def insert_manifests(
    connection: duckdb.DuckDBPyConnection, manifests: Sequence[Manifest], holding_text: Set[str], *, is_loaded: bool
) -> dict[str, int]:
    """Load manifests and the inputs that they name, and return the number of rows loaded into each table.

    They replace what the file has of these materializations, so that none is there twice, whatever it was loaded as.

    Args:
        connection: an open connection to the catalogue.
        manifests: the artifacts' manifests.
        holding_text: the assets whose artifacts hold text of single documents.
        is_loaded: whether the artifacts' own rows are loaded too.
    """
    described = [
        _described(manifest) | {"holds_text": manifest.asset in holding_text, "is_loaded": is_loaded}
        for manifest in manifests
    ]
    edges = [
        (manifest.key.materialization_id, key.materialization_id, key.asset, key.partition, key.data_version)
        for manifest in manifests
        for key in manifest.inputs
    ]
    frames = {
        "materializations": pl.DataFrame(described, schema=_MATERIALIZATIONS),
        "materialization_inputs": pl.DataFrame(edges, schema=_INPUTS, orient="row"),
    }
    numbers = {"numbers": [manifest.key.materialization_id for manifest in manifests]}
    for name in ("forget_manifests", "forget_edges"):
        connection.execute(statements("changes")[name].sql, numbers).complete()
    return {table: insert_frame(connection, table, frame) for table, frame in frames.items()}


def insert_tables(connection: duckdb.DuckDBPyConnection, artifacts: Sequence[Artifact]) -> dict[str, int]:
    """Load every table of these artifacts that the catalogue has too, and return the number of rows of each.

    Raises:
        StorageError: a Parquet file is damaged or has other columns.
        InputError: DuckDB rejects the statement that loads a table.
    """
    rows = {}
    for table in tables_of_artifacts():
        holders = [artifact for artifact in artifacts if table in artifact.manifest.rows]
        if holders:
            rows[table] = _insert_table(connection, table, holders)
    return rows


def delete_tables(connection: duckdb.DuckDBPyConnection, numbers: set[int]) -> None:
    """Delete the rows of the artifacts with these materialization_ids."""
    for table in tables_of_artifacts():
        # The table's name is that of a file of this package.
        sql = f"delete from {table} where materialization_id in (select unnest($numbers))"  # noqa: S608
        connection.execute(sql, {"numbers": sorted(numbers)}).complete()


def _insert_table(connection: duckdb.DuckDBPyConnection, table: str, artifacts: Sequence[Artifact]) -> int:
    paths = [str(artifact.table_path(table)) for artifact in artifacts]
    numbers = [artifact.key.materialization_id for artifact in artifacts]
    connection.register("new_files", pl.DataFrame({"path": paths, "materialization_id": numbers}))
    try:
        with naming_file(statements("load")[table], reads_files=True):
            count = _inserted(connection, table, {"paths": [glob.escape(path) for path in paths]})
    except duckdb.Error as error:
        raise StorageError(f"{_unloadable(table, paths)}: cannot be loaded into {table} ({error}).") from error
    connection.unregister("new_files")
    expected = sum(artifact.manifest.rows[table] for artifact in artifacts)
    if count != expected:
        problem = f"{count} rows were read from files that have {expected}, the first of which is {paths[0]}"
        raise StorageError(f"{table}: {problem}. Find the damaged files: `influence verify`.")
    return count


def _unloadable(table: str, paths: Sequence[str]) -> str:
    """Return the first file that cannot be loaded by itself; DuckDB does not name it when it reads many."""
    with duckdb.connect() as connection:
        connection.execute(statements("schema")[table].sql).complete()
        for path in paths:
            connection.register("new_files", pl.DataFrame({"path": [path], "materialization_id": [0]}))
            try:
                _inserted(connection, table, {"paths": [glob.escape(path)]})
            except duckdb.Error:
                return path
    return f"one of {paths[0]} and {len(paths) - 1} others"


def _inserted(connection: duckdb.DuckDBPyConnection, table: str, parameters: Mapping[str, object] | None) -> int:
    counts = connection.execute(statements("load")[table].sql, parameters).fetchall()
    return int(counts[0][0])


def _described(manifest: Manifest) -> dict[str, object]:
    """Return a manifest as a row of `materializations`."""
    summary = manifest.summary
    return {
        **manifest.model_dump(include=set(_MATERIALIZATIONS) - {"rows", "settings"}),
        "materialization_id": manifest.key.materialization_id,
        "rows": sum(manifest.rows.values()),
        "settings": json.dumps(manifest.settings),
        "content_hash": summary.get("content_hash", summary.get("weights_hash")),
    }
