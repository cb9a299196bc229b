"""The loader: changes only what changed, and comes to the same as a load from nothing."""

import random
import shutil
from datetime import timedelta

import duckdb
import polars as pl
import pytest
from catalogue_sample import DAY, Sample, everything_in, states, tombstones

from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.catalogue import (
    CatalogueContent,
    check_names,
    has_holes,
    load_catalogue,
    loaded_keys,
    loading,
    publishing,
    query,
    record_states,
    rows,
    run_checks,
)
from influence_assets.storage.catalogue import statements as statements_module
from influence_assets.storage.catalogue.statements import sql_folder
from tests.tiers import slow_but


@pytest.fixture
def sample(tmp_path):
    return Sample(tmp_path)


def test_loads_every_table_and_passes_every_check(sample):
    change = sample.load(sample.shard(0), sample.shard(1))
    assert (change.loaded, change.removed, change.unchanged) == (8, 0, 0)
    assert change.rows["influence_scores"] == 4
    assert change.rows["materialization_inputs"] == 2 * (1 + 3)
    assert sample.scores() == [1.0, 2.0, 3.0, 4.0]
    assert {name: rows.rows() for name, rows in run_checks(sample.path).items() if rows.height} == {}
    assert tuple(run_checks(sample.path)) == check_names()
    [document] = query(sample.path, "select * from documents where shard_id = $shard", {"shard": "a.jsonl"}).to_dicts()
    assert document["preview"] == "x" * 200
    assert document["date"] == "2024-05-06"
    [made] = query(sample.path, "select * from materializations where asset = 'curvature'").to_dicts()
    assert made["materialization_id"] == sample.curvature.key.materialization_id
    assert (made["partition"], made["code_version"], made["run_id"], made["rows"]) == (None, "7", "run-1", 1)
    assert made["settings"] == '{"length": 4}'
    assert made["content_hash"] == "w1"
    assert abs(made["started_at"] - sample.curvature.manifest.started_at).total_seconds() < 1e-3


def test_every_row_carries_the_artifact_that_it_came_from(sample):
    """Many files are read by one statement, and each row still knows its own."""
    first, second = sample.shard(0), sample.shard(1)
    sample.load(first, second)
    found = query(sample.path, "select shard_id, materialization_id from documents order by all").rows()
    assert found == [
        ("a.jsonl", first[0].key.materialization_id),
        ("b.jsonl", second[0].key.materialization_id),
    ]
    sql = "select sequence_id, materialization_id from influence_scores order by all"
    expected = [*[first[2].key.materialization_id] * 2, *[second[2].key.materialization_id] * 2]
    assert query(sample.path, sql)["materialization_id"].to_list() == expected


def test_only_the_stores_own_files_are_read(sample):
    """DuckDB takes the path for a pattern, and `store*` is that of another folder too."""
    shard = sample.shard(0)
    shutil.copytree(sample.store.root.parent, sample.path.parent / "stored")
    assert sample.load(shard).rows["influence_scores"] == 2


def test_columns_that_may_be_null_may_be_missing_from_some_or_all_files(sample):
    """And one by one comes to the same as both at once."""
    old, new = sample.shard(0), sample.write_documents("b.jsonl", "v1", withdrawn_documents=2)
    for loads in ([[old], [old, [new]]], [[old, [new]]]):
        sample.path.unlink(missing_ok=True)
        for shards in loads:
            sample.load(*shards)
        found = query(sample.path, "select withdrawn_documents from shards order by shard_id").rows()
        assert found == [(None,), (2,)]


def test_loading_the_same_again_does_nothing(sample):
    shard = sample.shard(0)
    sample.load(shard)
    before = (sample.path.read_bytes(), sample.path.stat().st_mtime_ns, sample.path.stat().st_ino)
    change = sample.load(list(reversed(shard)))
    assert (change.loaded, change.removed, change.unchanged, change.rows) == (0, 0, 5, {})
    assert (sample.path.read_bytes(), sample.path.stat().st_mtime_ns, sample.path.stat().st_ino) == before


def test_only_what_changed_is_loaded(sample):
    first, second = sample.shard(0), sample.shard(1)
    sample.load(first)
    change = sample.load(first, second)
    assert (change.loaded, change.removed, change.unchanged) == (3, 0, 5)
    assert sample.scores() == [1.0, 2.0, 3.0, 4.0]
    change = sample.load(sample.shard(0, "v2"), second)
    assert (change.loaded, change.removed, change.unchanged) == (3, 3, 5)
    assert sample.scores() == [1.0, 2.0, 3.0, 4.0]
    assert query(sample.path, "select content_hash from shards order by shard_id").rows() == [("v2",), ("v1",)]


def test_a_manifest_that_is_loaded_again_in_any_role_replaces_itself(sample):
    """So no order of vanishing and returning, of artifacts or of what they were computed from, gives double edges."""
    manifests = [artifact.manifest for artifact in sample.shard(0)]
    sample.load(sample.shard(0))
    expected = everything_in(sample.path)
    with publishing.changed_copy(sample.path, anew=False) as connection:
        for is_loaded in (False, True, True):
            for manifest in manifests:
                rows.insert_manifests(connection, [manifest], set(), is_loaded=is_loaded)
    found = everything_in(sample.path)
    for table in ("materializations", "materialization_inputs"):
        assert len(found[table]) == len(expected[table])
    assert found["materialization_inputs"] == expected["materialization_inputs"]


def test_only_what_is_new_is_opened(sample, monkeypatch):
    """Neither the artifacts that the file has nor what they were computed from are looked at again."""
    first, second = sample.shard(0), sample.shard(1)
    sample.load([first[2]])
    looked_at = []
    for name in ("open", "manifest"):
        real = getattr(sample.store, name)
        monkeypatch.setattr(sample.store, name, lambda key, real=real: looked_at.append(key) or real(key))
    sample.load([first[2], second[2]])
    new = {second[2].key, second[1].key, second[0].key}
    assert set(looked_at) == new


def test_many_artifacts_are_read_by_few_statements(sample, monkeypatch):
    inserted = []
    real = rows._inserted
    monkeypatch.setattr(rows, "_inserted", lambda c, table, bound: inserted.append(table) or real(c, table, bound))
    monkeypatch.setattr(loading, "_ARTIFACTS_AT_ONCE", 20)
    shards = [sample.shard(number) for number in range(12)]
    sample.load(*shards)
    assert sample.scores() == [float(score) for score in range(1, 25)]
    # 38 artifacts in two batches; a table whose artifacts fall into both is read twice.
    assert inserted.count("influence_scores") <= 2
    assert len(inserted) < 38


def test_many_rows_are_read_in_several_batches(sample, monkeypatch):
    """A batch holds three rows at most; an artifact with more is one of its own."""
    held = []
    real = loading.insert_tables
    monkeypatch.setattr(
        loading, "insert_tables", lambda c, artifacts: held.append(len(artifacts)) or real(c, artifacts)
    )
    monkeypatch.setattr(loading, "_ROWS_AT_ONCE", 3)
    sample.load(*(sample.shard(number) for number in range(3)))
    # curvature (1 row) and a shard's documents (2); documents alone, twice; of each shard scores and then
    # sequences (4 rows) are in the order of their keys: three scores, the query before them, three token_sequences.
    assert sum(held) == 11
    assert max(held) == 2
    assert sample.scores() == [float(score) for score in range(1, 7)]


def test_keys_of_another_version_of_duckdb_are_made_anew(sample):
    first, second = sample.shard(0), sample.shard(1)
    sample.load(first)
    with duckdb.connect(str(sample.path)) as connection:
        connection.execute("update queries set query_key = 1; update influence_scores set query_key = 1").complete()
    assert sample.load(first, second).loaded == 8
    assert sample.scores() == [1.0, 2.0, 3.0, 4.0]


def test_a_vanished_shard_leaves_every_table(sample):
    first, second = sample.shard(0), sample.shard(1)
    sample.load(first, second)
    assert sample.load(second).removed == 3
    gone = [artifact.key.materialization_id for artifact in first]
    tables = query(sample.path, "select table_name from duckdb_columns() where column_name = 'materialization_id'")
    for table in tables["table_name"].to_list():
        counted = query(sample.path, f"select count(*) from {table} where materialization_id in $gone", {"gone": gone})
        assert counted.item() == 0, table
    assert sample.scores() == [3.0, 4.0]


def test_rows_lie_by_query_the_strongest_first(sample):
    sample.load(sample.shard(0))
    assert query(sample.path, "select influence_nats from influence_scores").rows() == [(2.0,), (1.0,)]


class TestGenerations:
    def test_the_views_show_the_current_one_only(self, sample):
        old, new = sample.shard(0), sample.shard(0, generation=2)
        later = sample.write_curvature(2)
        sample.load(old, [later, new[2]])
        assert query(sample.path, "select generation_id from top_influences").rows() == [(1,), (1,)]
        change = sample.load(old, [later, new[2]], generation=2)
        assert (change.loaded, change.removed) == (0, 0)
        assert query(sample.path, "select generation_id from top_influences").rows() == [(2,), (2,)]
        assert query(sample.path, "select count(*) from influence_scores").item() == 4

    def test_two_stand_side_by_side_and_can_be_compared(self, sample):
        old, new = sample.shard(0), sample.shard(0, generation=2)
        sample.load(old, [sample.write_curvature(2), new[2]])
        assert {name: rows.rows() for name, rows in run_checks(sample.path).items() if rows.height} == {}
        sql = "select generation_id, other_generation_id, sequences, spearman from generation_agreement"
        assert query(sample.path, sql).rows() == [(2, 1, 2, 1.0)]

    def test_the_current_one_must_be_complete_and_the_other_need_not(self, sample):
        """The first is current and complete; of the second there is one shard's scores so far."""
        later = [sample.write_curvature(2), sample.shard(1, generation=2)[2]]
        sample.load(sample.shard(0), sample.shard(1), later)
        assert {name: rows.rows() for name, rows in run_checks(sample.path).items() if rows.height} == {}
        sample.load(sample.shard(0), sample.shard(1), later, generation=2)
        violated = {name for name, rows in run_checks(sample.path).items() if rows.height}
        assert violated == {"every_sequence_scored"}


class TestAncestors:
    """What rows were computed from stands in `materializations` by its manifest."""

    def ids(self, sample, *, is_loaded):
        sql = "select materialization_id from materializations where is_loaded = $is_loaded"
        return set(query(sample.path, sql, {"is_loaded": is_loaded})["materialization_id"])

    def test_are_found_through_several_steps_and_not_loaded(self, sample):
        found, packed, scored = sample.shard(0)
        sample.load([scored])
        assert self.ids(sample, is_loaded=False) == {a.key.materialization_id for a in (found, packed)}
        assert query(sample.path, "select count(*) from documents").item() == 0

    def test_go_when_nothing_leads_to_them_any_more(self, sample):
        first, second = sample.shard(0), sample.shard(1)
        sample.load([first[2]], [second[2]])
        sample.load([second[2]])
        assert self.ids(sample, is_loaded=False) == {a.key.materialization_id for a in second[:2]}
        edges = query(sample.path, "select distinct materialization_id from materialization_inputs")
        assert set(edges["materialization_id"]) == {a.key.materialization_id for a in second[1:]}

    def test_stay_when_only_their_rows_go(self, sample):
        """A superseded shard's tokens leave the tables; what was fitted on them still leads there."""
        found, packed, scored = sample.shard(0)
        sample.load([found, packed, scored])
        change = sample.load([scored])
        assert (change.loaded, change.removed, change.unchanged) == (0, 2, 3)
        assert self.ids(sample, is_loaded=False) == {a.key.materialization_id for a in (found, packed)}
        assert query(sample.path, "select count(*) from sequences").item() == 0
        assert sample.load([found, packed, scored]).loaded == 2
        assert self.ids(sample, is_loaded=False) == set()
        assert query(sample.path, "select count(*), count(distinct materialization_id) from materializations").rows()[
            0
        ] == (5, 5)

    def test_one_of_which_the_store_has_lost_every_trace_is_still_named_and_found_again(self, sample):
        found, packed, scored = sample.shard(0)
        aside = sample.path.parent / "aside"
        shutil.move(found.folder, aside)
        sample.load([packed, scored])
        sql = "select input_asset, input_partition from materialization_inputs where materialization_id = $id"
        assert query(sample.path, sql, {"id": packed.key.materialization_id}).rows() == [("documents", "a.jsonl")]
        assert [row["missing"] for row in run_checks(sample.path)["lineage_complete"].to_dicts() if row] != []
        shutil.move(aside, found.folder)
        sample.load([packed, scored], sample.shard(1))
        assert found.key.materialization_id in self.ids(sample, is_loaded=False)


class TestHoles:
    def test_there_are_none_in_a_fresh_file_and_none_by_adding(self, sample):
        sample.load(sample.shard(0))
        sample.load(sample.shard(0), sample.shard(1))
        assert not has_holes(sample.path)

    def test_deleted_rows_leave_some_until_the_file_is_built_anew(self, sample):
        secret = sample.write_documents("b.jsonl", "v1", text="Wolpertinger hunt at dawn. " * 40)
        sample.load(sample.shard(0), [secret])
        sample.load(sample.shard(0))
        assert has_holes(sample.path)
        assert b"Wolpertinger" in sample.path.read_bytes()  # why it matters
        sample.load(sample.shard(0), sample.shard(2))
        assert has_holes(sample.path)  # a load that deletes nothing does not fill them
        content = sample.content(sample.shard(0), sample.shard(2))
        change = load_catalogue(sample.path, content, sample.store, anew=True)
        assert (change.loaded, change.unchanged) == (8, 0)
        assert not has_holes(sample.path)
        assert b"Wolpertinger" not in sample.path.read_bytes()


class TestStates:
    OUTDATED = (("documents", "a.jsonl", "stale", "v2", "v1", "its file changed"),)
    STANDING = (("documents", "a.jsonl", "standing", "v1", "v1", None), ("curvature", None, "missing", None, None, "-"))

    def outdated(self, sample):
        return query(sample.path, "select asset, partition, state from outdated_partitions order by all").rows()

    def test_are_loaded_and_replaced_alone(self, sample):
        shard = sample.shard(0)
        sample.load(shard, states=states(self.OUTDATED))
        assert self.outdated(sample) == [("documents", "a.jsonl", "stale")]
        version = query(sample.path, "select content_version from catalogue").item()
        assert record_states(sample.path, states(self.STANDING))
        assert self.outdated(sample) == [("curvature", None, "missing")]
        assert query(sample.path, "select content_version from catalogue").item() == version
        assert not has_holes(sample.path)
        assert sample.scores() == [1.0, 2.0]

    def test_the_same_in_another_order_change_nothing(self, sample):
        sample.load(sample.shard(0), states=states(self.STANDING))
        before = sample.path.stat().st_ino
        assert not record_states(sample.path, states(list(reversed(self.STANDING))))
        assert sample.path.stat().st_ino == before

    def test_a_load_brings_its_own_also_where_nothing_else_changed(self, sample):
        sample.load(sample.shard(0), states=states(self.OUTDATED))
        record_states(sample.path, states(self.STANDING))
        change = sample.load(sample.shard(0), states=states(self.OUTDATED))
        assert (change.loaded, change.removed) == (0, 0)
        assert self.outdated(sample) == [("documents", "a.jsonl", "stale")]

    def test_without_a_catalogue_nothing_is_recorded(self, sample):
        assert not record_states(sample.path, states(self.STANDING))
        sample.path.write_bytes(b"not a database" * 1000)
        assert not record_states(sample.path, states(self.STANDING))


def test_tombstones_are_part_of_the_content(sample):
    gone = tombstones([("b.jsonl", "d1", "asked for", DAY)])
    version = sample.load(sample.shard(0)).content_version
    change = sample.load(sample.shard(0), tombstones=gone)
    assert (change.loaded, change.removed) == (0, 0)
    assert change.content_version != version
    assert query(sample.path, "select * from tombstones").rows() == [("b.jsonl", "d1", "asked for", DAY)]
    remembered = tombstones([("b.jsonl", "d1", "asked for", DAY + timedelta(days=1))])
    assert sample.content(tombstones=remembered).version == sample.content(tombstones=gone).version
    assert sample.load(sample.shard(0)).content_version == version
    assert query(sample.path, "select * from tombstones").rows() == []


def test_another_schema_builds_from_empty(sample, monkeypatch, tmp_path):
    shard = sample.shard(0)
    sample.load(shard)
    shutil.copytree(sql_folder(), tmp_path / "sql")
    changed = tmp_path / "sql" / "schema" / "shards.sql"
    changed.write_text(changed.read_text().replace("source_bytes bigint", "source_bytes hugeint"))
    monkeypatch.setattr(statements_module, "sql_folder", lambda: tmp_path / "sql")
    assert not record_states(sample.path, states([]))
    assert loaded_keys(sample.path)  # a collector of garbage still knows what is published
    change = sample.load(shard)
    assert (change.loaded, change.removed) == (5, 0)
    assert query(sample.path, "select typeof(source_bytes) from shards").item() == "HUGEINT"
    assert sample.scores() == [1.0, 2.0]


def test_a_damaged_catalogue_is_said_and_built_from_empty(sample):
    shard = sample.shard(0)
    sample.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="rebuild-catalogue"):
        query(sample.path, "select 1")
    assert sample.load(shard).loaded == 5
    assert sample.scores() == [1.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_any_way_there_comes_to_the_same_as_from_nothing(sample, seed):
    """Shards come, change and go, generations too; every table is then as if it had been loaded at once."""
    chance = random.Random(seed)
    curvatures = {1: [], 2: [sample.write_curvature(2)]}
    content = None
    for _ in range(8):
        chosen = [sample.shard(n, chance.choice(("v1", "v2"))) for n in range(4) if chance.random() < 0.7]
        generation = chance.choice((1, 2))
        kept = [[artifact for artifact in shard if chance.random() < 0.9] for shard in chosen]
        outdated = states([("documents", f"{n}", "missing", None, None, "new") for n in range(chance.randrange(3))])
        gone = tombstones([("z.jsonl", f"d{n}", "asked for", DAY) for n in range(chance.randrange(3))])
        content = sample.content(*kept, curvatures[generation], generation=generation, states=outdated, tombstones=gone)
        load_catalogue(sample.path, content, sample.store)
    fresh = sample.path.with_name("fresh.duckdb")
    load_catalogue(fresh, content, sample.store)
    assert everything_in(sample.path) == everything_in(fresh)


@pytest.mark.parametrize(
    "file", ["schema/shards.sql", "views/top_influences.sql", "load/shards.sql", "checks/every_sequence_scored.sql"]
)
@pytest.mark.parametrize(
    "broken", slow_but("select nothing from nowhere", of=["creat tabel x (", "select nothing from nowhere"], slow=())
)
def test_a_statement_that_is_rejected_is_named_by_its_file(sample, monkeypatch, tmp_path, file, broken):
    """It may be that of an extension; nothing is wrong with the disk."""
    shard = sample.shard(0)
    sample.load(shard)
    shutil.copytree(sql_folder(), tmp_path / "sql")
    (tmp_path / "sql" / file).write_text(f"-- Something.\n{broken}\n")
    monkeypatch.setattr(statements_module, "sql_folder", lambda: tmp_path / "sql")

    def load_and_check():
        sample.load(shard)
        run_checks(sample.path)

    with pytest.raises(InputError, match=rf"(?s){file}: DuckDB rejects the statement \(.*Correct it") as raised:
        load_and_check()
    assert raised.value.where == str(tmp_path / "sql" / file)
    monkeypatch.undo()
    assert sample.scores() == [1.0, 2.0], "what was published stays"


@pytest.mark.parametrize("ancestors", [1, 2])
def test_an_ancestor_that_is_loaded_again_has_its_inputs_once(sample, ancestors):
    """A file that changes and changes back: what the curvature was fitted on was an ancestor in the meantime."""
    shard = sample.shard(0)
    sample.load(shard)
    sample.load(shard[ancestors:])
    sample.load(shard)
    fresh = sample.path.with_name("fresh.duckdb")
    load_catalogue(fresh, sample.content(shard), sample.store)
    assert everything_in(sample.path) == everything_in(fresh)
    assert not any(len(rows) for rows in run_checks(sample.path).values())


def test_the_file_is_in_a_format_that_earlier_duckdb_versions_open(sample):
    sample.load(sample.shard(0))
    with duckdb.connect(str(sample.path), read_only=True) as connection:
        [[tags]] = connection.execute("select tags from duckdb_databases() where not internal").fetchall()
    assert tags["storage_version"].startswith("v1.2")


def test_an_artifact_named_twice_is_loaded_once(sample):
    shard = sample.shard(0)
    assert sample.load(shard, shard).loaded == 5
    assert sample.scores() == [1.0, 2.0]


def test_a_table_that_is_the_catalogues_own_is_not_taken_from_an_artifact(sample):
    odd = sample.write(ArtifactKey("odd", None, "v1"), tombstones=pl.DataFrame({"shard_id": ["a.jsonl"]}))
    sample.load([odd])
    assert query(sample.path, "select count(*) from tombstones").item() == 0


def test_content_says_what_it_is():
    """Two orders of the same keys are one content; the states are no part of it."""
    keys = [ArtifactKey("documents", name, "v1") for name in ("a", "b")]
    one, other = (CatalogueContent("topics", 1, order) for order in (keys, keys[::-1]))
    assert one.version == other.version
    assert (
        one.version == CatalogueContent("topics", 1, keys, states=states([("a", None, "missing", *[None] * 3)])).version
    )
    assert one.version != CatalogueContent("topics", 2, keys).version
    assert one.version != CatalogueContent("topics", 1, keys[:1]).version
