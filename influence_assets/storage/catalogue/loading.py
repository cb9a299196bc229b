"""The loader, which opens only artifacts that are not in the catalogue yet."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from uuid import uuid4

import duckdb
import polars as pl

from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue.content import (
    STATES,
    TOMBSTONES,
    CatalogueChange,
    CatalogueContent,
    as_rows,
    digest,
)
from influence_assets.storage.catalogue.publication import is_as_published
from influence_assets.storage.catalogue.publishing import SpoiledError, changed_copy, loader_lock
from influence_assets.storage.catalogue.reading import quoted, standing_of
from influence_assets.storage.catalogue.rows import (
    delete_tables,
    insert_frame,
    insert_manifests,
    insert_tables,
)
from influence_assets.storage.catalogue.statements import own_statement, schema_version, statements

_ARTIFACTS_AT_ONCE = 500
"""Large enough to keep statements few, small enough to keep manifests from filling the memory."""
_ROWS_AT_ONCE = 25_000_000
"""Large enough to store the rows of a query together, small enough to sort them in memory."""


def load_catalogue(
    path: Path, content: CatalogueContent, store: ArtifactStore, *, anew: bool = False
) -> CatalogueChange:
    """Give the catalogue exactly this content; do nothing if it has it already.

    Only artifacts whose rows are not in the file yet are opened. A table's rows come from every artifact that has a
    Parquet file of its name. For lineage, the manifests of everything that the artifacts were computed from are loaded
    too, as far as the store still has them. A file that another program changed is built again. Loads wait for each
    other.

    Args:
        path: the DuckDB file, which need not exist.
        content: the content that it should have.
        store: the store that holds the artifacts.
        anew: rebuild the file, so that it contains no byte of a deleted row.

    Raises:
        StorageError: a table of an artifact cannot be loaded, or the disk reports an error. The published file is then
            unchanged.
    """
    started = time.monotonic()
    with loader_lock(path):
        standing = None if anew or not is_as_published(path) else standing_of(path)
        if standing == content.standing:
            unchanged = len({key.materialization_id for key in content.artifacts})
            return CatalogueChange(0, 0, unchanged, content.version, {}, time.monotonic() - started)
        is_empty = standing is None or standing.schema_version != schema_version()
        try:
            loaded, removed, rows = _load(path, content, store, anew=is_empty)
        except SpoiledError:
            loaded, removed, rows = _load(path, content, store, anew=True)
    unchanged = len({key.materialization_id for key in content.artifacts}) - loaded
    return CatalogueChange(loaded, removed, unchanged, content.version, rows, time.monotonic() - started)


def unload_artifacts(path: Path, keys: Iterable[ArtifactKey], tombstones: pl.DataFrame) -> None:
    """Delete the rows of artifacts from the published file, whatever tables it has, and replace its tombstones.

    It uses neither artifacts nor the SQL of extensions, so that a fault in those cannot keep rows published.

    Args:
        path: the DuckDB file.
        keys: the artifacts whose rows are deleted.
        tombstones: all rows of the table of that name.

    Raises:
        StorageError: the file is too damaged to be changed, or has other tables than this version writes, or the disk
            reports an error. The published file is then unchanged.
    """
    numbers = sorted({key.materialization_id for key in keys})
    with loader_lock(path), changed_copy(path, anew=False) as connection:
        for table in _tables_of_rows(connection):
            sql = f"delete from {quoted(table)} where materialization_id in (select unnest($numbers))"  # noqa: S608
            connection.execute(sql, {"numbers": numbers}).complete()
        for name, parameters in (("unload", {"numbers": numbers}), ("forget_ancestors", None), ("forget_inputs", None)):
            connection.execute(own_statement("changes", name), parameters).complete()
        connection.execute("delete from tombstones").complete()
        connection.register("new_tombstones", as_rows(tombstones, TOMBSTONES))
        connection.execute(own_statement("load", "tombstones")).complete()
        connection.unregister("new_tombstones")
        # Another version than any content has, so that the next load finds that its rows are missing.
        version = {"version": f"unloaded {uuid4().hex}"}
        connection.execute("update catalogue set has_holes = true, content_version = $version", version).complete()


def _tables_of_rows(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the tables of the file whose rows come from artifacts."""
    sql = "select table_name from duckdb_columns() where column_name = 'materialization_id' and not internal"
    tables = {str(name) for (name,) in connection.execute(sql).fetchall()}
    views = {str(name) for (name,) in connection.execute("select view_name from duckdb_views()").fetchall()}
    return sorted(tables - views - {"materializations", "materialization_inputs"})


def record_states(path: Path, states: pl.DataFrame) -> bool:
    """Replace the rows of `partition_states` and leave everything else as it is.

    Args:
        path: the DuckDB file, which need not exist.
        states: see `CatalogueContent`.

    Returns:
        Whether the file was changed. It is not if it has these states already, or if it is missing or has another
        schema version.

    Raises:
        StorageError: the disk reports an error. The published file is then unchanged.
    """
    if not path.is_file():
        return False
    with loader_lock(path):
        standing = standing_of(path)
        version = digest(states, STATES)
        if standing is None or standing.schema_version != schema_version() or standing.states_version == version:
            return False
        with changed_copy(path, anew=False) as connection:
            _replace(connection, "partition_states", as_rows(states, STATES))
            connection.execute("update catalogue set states_version = $version", {"version": version}).complete()
    return True


def _load(
    path: Path, content: CatalogueContent, store: ArtifactStore, *, anew: bool
) -> tuple[int, int, dict[str, int]]:
    with changed_copy(path, anew=anew) as connection:
        if connection.execute(statements("changes")["outdated_keys"].sql).fetchall():
            raise SpoiledError(f"{path}: another version of DuckDB computed its keys.")
        return _bring_to(connection, content, store)


def _bring_to(
    connection: duckdb.DuckDBPyConnection, content: CatalogueContent, store: ArtifactStore
) -> tuple[int, int, dict[str, int]]:
    """Give the file this content; return the numbers of artifacts loaded and removed, and of rows by table."""
    keys = {key.materialization_id: key for key in content.artifacts}
    loaded = _numbers(connection, "select materialization_id from materializations where is_loaded")
    removed, new = loaded - keys.keys(), sorted(keys.keys() - loaded, key=lambda number: str(keys[number]))
    if removed:
        delete_tables(connection, removed)
        _change(connection, "unload", numbers=sorted(removed))
    rows = _insert_artifacts(connection, [keys[number] for number in new], store, content.holding_text)
    _find_ancestors(connection, store, content.holding_text)
    _change(connection, "forget_ancestors")
    _change(connection, "forget_inputs")
    _replace(connection, "tombstones", as_rows(content.tombstones, TOMBSTONES))
    _replace(connection, "partition_states", as_rows(content.states, STATES))
    _change(connection, "mark_current_generation", current=content.current_generation)
    _change(connection, "mark_members", generations=list(content.members), members=list(content.members.values()))
    _change(connection, "mark_trained_documents")
    _change(connection, "mark_trained_sequences")
    _describe(connection, content, has_new_holes=bool(removed))
    return len(new), len(removed), rows


def _insert_artifacts(
    connection: duckdb.DuckDBPyConnection, keys: Sequence[ArtifactKey], store: ArtifactStore, holding_text: Set[str]
) -> dict[str, int]:
    """Load the tables and manifests of artifacts, which are sorted by asset, and return the number of rows by table."""
    rows: Counter[str] = Counter()
    for artifacts in batches(store.open(key) for key in keys):
        manifests = [artifact.manifest for artifact in artifacts]
        rows.update(insert_manifests(connection, manifests, holding_text, is_loaded=True))
        rows.update(insert_tables(connection, artifacts))
    return dict(rows)


def batches(artifacts: Iterable[Artifact]) -> Iterator[list[Artifact]]:
    """Yield artifacts in batches within the limits above; a single larger artifact is a batch of its own."""
    batch: list[Artifact] = []
    batch_rows = 0
    for artifact in artifacts:
        rows = sum(artifact.manifest.rows.values())
        if batch and (len(batch) == _ARTIFACTS_AT_ONCE or batch_rows + rows > _ROWS_AT_ONCE):
            yield batch
            batch, batch_rows = [], 0
        batch.append(artifact)
        batch_rows += rows
    if batch:
        yield batch


def _find_ancestors(connection: duckdb.DuckDBPyConnection, store: ArtifactStore, holding_text: Set[str]) -> None:
    """Load the manifests of all ancestors of what is loaded; manifests that the file already has are not read again."""
    tried: set[ArtifactKey] = set()
    missing = statements("changes")["inputs_without_manifest"].sql
    while keys := {ArtifactKey(*row) for row in connection.execute(missing).fetchall()} - tried:
        tried |= keys
        manifests = [manifest for key in sorted(keys, key=str) if (manifest := store.manifest(key)) is not None]
        insert_manifests(connection, manifests, holding_text, is_loaded=False)


def _replace(connection: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame) -> None:
    connection.execute(f"delete from {table}").complete()  # noqa: S608 (one of the names used in this file)
    insert_frame(connection, table, rows)


def _describe(connection: duckdb.DuckDBPyConnection, content: CatalogueContent, *, has_new_holes: bool) -> None:
    """Record in the file what it now contains."""
    had_holes = connection.execute("select coalesce(bool_or(has_holes), false) from catalogue").fetchall()[0][0]
    row = {"study": content.study, "has_holes": bool(had_holes) or has_new_holes, **vars(content.standing)}
    _replace(connection, "catalogue", pl.DataFrame([row]))


def _change(connection: duckdb.DuckDBPyConnection, name: str, **parameters: object) -> None:
    connection.execute(statements("changes")[name].sql, parameters or None).complete()


def _numbers(connection: duckdb.DuckDBPyConnection, sql: str) -> set[int]:
    return {int(number) for (number,) in connection.execute(sql).fetchall()}
