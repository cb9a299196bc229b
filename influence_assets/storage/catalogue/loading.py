"""The loader: it opens what is not in the catalogue yet, and leaves alone what is."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

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
from influence_assets.storage.catalogue.publishing import SpoiledError, changed_copy, loader_lock
from influence_assets.storage.catalogue.reading import standing_of
from influence_assets.storage.catalogue.rows import (
    delete_tables,
    insert_frame,
    insert_manifests,
    insert_tables,
)
from influence_assets.storage.catalogue.statements import schema_version, statements

_ARTIFACTS_AT_ONCE = 500
"""Large enough that statements are few, small enough that manifests do not fill the memory."""
_ROWS_AT_ONCE = 25_000_000
"""Large enough that the rows of a query lie together, small enough that a sort of them stays in the memory."""


def load_catalogue(
    path: Path, content: CatalogueContent, store: ArtifactStore, *, anew: bool = False
) -> CatalogueChange:
    """Make the catalogue hold this and nothing else; do nothing where it does already.

    Only artifacts whose rows are not in the file yet are opened. A table's rows come from every artifact that has a
    Parquet file of its name. Of all that the artifacts were computed from, the manifests are loaded, for lineage, as
    far as the store still has them. Loads wait for each other.

    Args:
        path: the DuckDB file, there or not.
        content: what it shall hold.
        store: where the artifacts are.
        anew: build it from nothing, so that no byte of a deleted row is left in the file.

    Raises:
        StorageError: a table of an artifact cannot be loaded, or the disk refuses. What was published still stands.
    """
    started = time.monotonic()
    with loader_lock(path):
        standing = None if anew else standing_of(path)
        if standing == content.standing:
            kept = len({key.materialization_id for key in content.artifacts})
            return CatalogueChange(0, 0, kept, content.version, {}, time.monotonic() - started)
        is_empty = standing is None or standing.schema_version != schema_version()
        try:
            loaded, removed, rows = _load(path, content, store, anew=is_empty)
        except SpoiledError:
            loaded, removed, rows = _load(path, content, store, anew=True)
    unchanged = len({key.materialization_id for key in content.artifacts}) - loaded
    return CatalogueChange(loaded, removed, unchanged, content.version, rows, time.monotonic() - started)


def record_states(path: Path, states: pl.DataFrame) -> bool:
    """Replace the rows of `partition_states` and leave everything else as it is.

    Args:
        path: the DuckDB file, there or not.
        states: see `CatalogueContent`.

    Returns:
        Whether the file was changed: not where it says so already, and not where there is no catalogue of this version.

    Raises:
        StorageError: the disk refuses. What was published still stands.
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
            raise SpoiledError(f"{path}: its keys are those of another version of DuckDB.")
        return _bring_to(connection, content, store)


def _bring_to(
    connection: duckdb.DuckDBPyConnection, content: CatalogueContent, store: ArtifactStore
) -> tuple[int, int, dict[str, int]]:
    """Change what the file holds: the numbers of artifacts loaded and removed, and rows of each table."""
    wanted = {key.materialization_id: key for key in content.artifacts}
    held = _numbers(connection, "select materialization_id from materializations where is_loaded")
    removed, new = held - wanted.keys(), sorted(wanted.keys() - held, key=lambda number: str(wanted[number]))
    if removed:
        delete_tables(connection, removed)
        _change(connection, "unload", numbers=sorted(removed))
    _change(connection, "forget_manifests", numbers=new)  # of what was only an ancestor until now
    rows = _insert_artifacts(connection, [wanted[number] for number in new], store, content.holding_text)
    _find_ancestors(connection, store, content.holding_text)
    _change(connection, "forget_ancestors")
    _change(connection, "forget_inputs")
    _replace(connection, "tombstones", as_rows(content.tombstones, TOMBSTONES))
    _replace(connection, "partition_states", as_rows(content.states, STATES))
    _change(connection, "mark_current_generation", current=content.current_generation)
    _describe(connection, content, has_new_holes=bool(removed))
    return len(new), len(removed), rows


def _insert_artifacts(
    connection: duckdb.DuckDBPyConnection, keys: Sequence[ArtifactKey], store: ArtifactStore, holding_text: Set[str]
) -> dict[str, int]:
    """Load tables and manifests of artifacts, sorted so that those of one asset come together; the rows by table."""
    rows: Counter[str] = Counter()
    for artifacts in _batches(store.open(key) for key in keys):
        manifests = [artifact.manifest for artifact in artifacts]
        rows.update(insert_manifests(connection, manifests, holding_text, is_loaded=True))
        rows.update(insert_tables(connection, artifacts))
    return dict(rows)


def _batches(artifacts: Iterable[Artifact]) -> Iterator[list[Artifact]]:
    """So many artifacts that each limit above is kept, but for single artifacts that are larger."""
    batch: list[Artifact] = []
    rows = 0
    for artifact in artifacts:
        held = sum(artifact.manifest.rows.values())
        if batch and (len(batch) == _ARTIFACTS_AT_ONCE or rows + held > _ROWS_AT_ONCE):
            yield batch
            batch, rows = [], 0
        batch.append(artifact)
        rows += held
    if batch:
        yield batch


def _find_ancestors(connection: duckdb.DuckDBPyConnection, store: ArtifactStore, holding_text: Set[str]) -> None:
    """Load the manifests of all that anything here was computed from; what the file knows already is not read again."""
    tried: set[ArtifactKey] = set()
    missing = statements("changes")["inputs_without_manifest"].sql
    while named := {ArtifactKey(*row) for row in connection.execute(missing).fetchall()} - tried:
        tried |= named
        manifests = [manifest for key in sorted(named, key=str) if (manifest := store.manifest(key)) is not None]
        insert_manifests(connection, manifests, holding_text, is_loaded=False)


def _replace(connection: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame) -> None:
    connection.execute(f"delete from {table}").complete()  # noqa: S608 (one of two names that stand above)
    insert_frame(connection, table, rows)


def _describe(connection: duckdb.DuckDBPyConnection, content: CatalogueContent, *, has_new_holes: bool) -> None:
    """Say what the file now holds."""
    had_holes = connection.execute("select coalesce(bool_or(has_holes), false) from catalogue").fetchall()[0][0]
    described = {"study": content.study, "has_holes": bool(had_holes) or has_new_holes, **vars(content.standing)}
    _replace(connection, "catalogue", pl.DataFrame([described]))


def _change(connection: duckdb.DuckDBPyConnection, name: str, **bound: object) -> None:
    connection.execute(statements("changes")[name].sql, bound or None).complete()


def _numbers(connection: duckdb.DuckDBPyConnection, sql: str) -> set[int]:
    return {int(number) for (number,) in connection.execute(sql).fetchall()}
