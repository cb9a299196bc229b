"""Comparison of the published rows with the artifacts and manifests that they were loaded from."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb

from influence_assets.errors import StorageError
from influence_assets.storage.artifacts import Artifact, ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue.content import STATES, CatalogueContent, digest
from influence_assets.storage.catalogue.loading import batches
from influence_assets.storage.catalogue.reading import loaded_keys, query, quoted, standing_of
from influence_assets.storage.catalogue.rows import insert_manifests, insert_tables, tables_of_artifacts
from influence_assets.storage.catalogue.statements import schema_version, statements

COMPUTED_AFTER_LOADING = {
    "documents": ("trained_on",),
    "sequences": ("trained_on",),
    "generations": ("is_current", "member"),
    "materializations": ("holds_text", "is_loaded"),
}
"""Columns whose values do not come from the artifact that a row came from."""
MANIFESTS_AT_ONCE = 5000
CLOCK = timedelta(milliseconds=1)
"""DuckDB's time stamps are coarser than those of manifests."""

_OF_MANIFESTS = ("materializations", "materialization_inputs")
_UNLOADED = "unloaded "

_Digests = dict[int, tuple[int, int]]
"""The number of rows of each materialization, and the sum of their hashes."""


@dataclass(frozen=True)
class Difference:
    """Rows of a table that are not those of the artifact that they came from.

    Args:
        table: the table.
        artifact: the artifact; None if the rows are not of a single one.
        published: the number of rows in the catalogue.
        stored: the number of rows that the artifact has; the values of some differ if it is the same.
    """

    table: str
    artifact: str | None
    published: int
    stored: int


def differences(path: Path, store: ArtifactStore) -> Iterator[Difference]:
    """Yield every table and materialization whose rows are not those of the artifact.

    Every row is hashed, in the catalogue and as the artifact's tables give it when they are loaded again. Artifacts
    that cannot be read are left out. Of one that was computed again after damage, only the numbers of rows are
    compared: the file has the rows of the first computation, from which the second may differ by rounding. A file that
    another version of the schema made is not compared, because the next run builds it again.

    Args:
        path: the DuckDB file.
        store: the store that holds the artifacts.

    Raises:
        StorageError: the catalogue is damaged.
    """
    standing = standing_of(path)
    if standing is None or standing.schema_version != schema_version():
        return
    sql = "select materialization_id, asset, partition, data_version from materializations"
    names = {number: ArtifactKey(*key) for number, *key in query(path, sql).rows()}
    since = _computed_again(path, store, names)
    expected, unknown = _expected(store, sorted(set(loaded_keys(path)), key=str), list(names.values()))
    for table in (*tables_of_artifacts(), *_OF_MANIFESTS):
        found = _digests_of_rows(query(path, _sql(table)).rows())
        for number in sorted(found.keys() | expected[table].keys()):
            in_file, in_store = (digests.get(number, (0, 0)) for digests in (found, expected[table]))
            is_same = in_file[0] == in_store[0] if number in since else in_file == in_store
            if number not in unknown and not is_same:
                yield Difference(table, str(names[number]) if number in names else None, in_file[0], in_store[0])
    yield from _differences_of_content(path)


def _computed_again(path: Path, store: ArtifactStore, names: Mapping[int, ArtifactKey]) -> set[int]:
    """Return the materializations that were computed again after damage; the file still says who computed its rows."""
    published = dict(query(path, "select materialization_id, started_at from materializations").rows())
    manifests = {number: store.manifest(key) for number, key in names.items()}
    return {
        number
        for number, manifest in manifests.items()
        if manifest is not None and number in published and manifest.started_at - published[number] > CLOCK
    }


def _differences_of_content(path: Path) -> Iterator[Difference]:
    """Yield what differs from the versions that the file records about itself."""
    standing = standing_of(path)
    if standing is None or standing.content_version.startswith(_UNLOADED):
        return  # documents were taken out of it, and the next load brings the rest
    current = query(path, "select generation_id from generations where is_current")["generation_id"].to_list()
    tombstones, states = query(path, "from tombstones"), query(path, "from partition_states")
    study = query(path, "select study from catalogue").item()
    keys = loaded_keys(path)
    members = dict(query(path, "select generation_id, member from generations where member > 0").rows())
    current_generation = current[0] if len(current) == 1 else None
    content = CatalogueContent(study, current_generation, keys, tombstones, members=members)
    if content.version != standing.content_version:
        yield Difference("catalogue", None, len(keys), len(keys))
    if digest(states, STATES) != standing.states_version:
        yield Difference("partition_states", None, states.height, states.height)


def _expected(
    store: ArtifactStore, loaded: Sequence[ArtifactKey], known: Sequence[ArtifactKey]
) -> tuple[Mapping[str, _Digests], set[int]]:
    """Return the digests of what the store has, by table, and the materializations that it cannot say anything of."""
    tables = tables_of_artifacts()
    expected: dict[str, _Digests] = {table: {} for table in (*tables, *_OF_MANIFESTS)}
    unknown: set[int] = set()
    with _scratch() as connection:
        for artifacts in batches(_readable(store, loaded, unknown)):
            insert_tables(connection, artifacts)
            _take(connection, tables, expected)
        for start in range(0, len(known), MANIFESTS_AT_ONCE):
            keys = known[start : start + MANIFESTS_AT_ONCE]
            manifests = [manifest for key in keys if (manifest := store.manifest(key)) is not None]
            insert_manifests(connection, manifests, set(), is_loaded=True)
            _take(connection, _OF_MANIFESTS, expected)
            unknown |= {key.materialization_id for key in keys} - {m.key.materialization_id for m in manifests}
    return expected, unknown


def _readable(store: ArtifactStore, keys: Iterable[ArtifactKey], unknown: set[int]) -> Iterator[Artifact]:
    """Yield the artifacts that can be read, and add the numbers of the others to `unknown`."""
    for key in keys:
        try:
            artifact = store.open(key)
            for table in artifact.manifest.rows:
                artifact.table_path(table)  # checks the file
        except StorageError:
            unknown.add(key.materialization_id)
        else:
            yield artifact


@contextmanager
def _scratch() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory with empty tables."""
    with (
        tempfile.TemporaryDirectory(prefix="influence-sql-") as spill,
        duckdb.connect(":memory:", config={"temp_directory": spill}) as connection,
    ):
        connection.execute("set timezone = 'UTC'").complete()
        for statement in statements("schema").values():
            connection.execute(statement.sql).complete()
        yield connection


def _take(connection: duckdb.DuckDBPyConnection, tables: Iterable[str], digests: Mapping[str, _Digests]) -> None:
    """Add the digests of the tables' rows, and empty the tables."""
    for table in tables:
        digests[table].update(_digests_of_rows(connection.execute(_sql(table)).fetchall()))
        connection.execute(f"delete from {quoted(table)}").complete()  # noqa: S608 (one of our own files' names)


def _digests_of_rows(rows: Iterable[tuple[int, int, int]]) -> _Digests:
    return {number: (count, int(hashes)) for number, count, hashes in rows}


def _sql(table: str) -> str:
    left_out = ", ".join(COMPUTED_AFTER_LOADING.get(table, ()))
    columns = f"* exclude ({left_out})" if left_out else "*"
    return f"""
        select whole.materialization_id, count(*), sum(hash(whole))::varchar
        from (select {columns} from {quoted(table)}) as whole
        group by whole.materialization_id
    """  # noqa: S608 (all are names of our own files)
