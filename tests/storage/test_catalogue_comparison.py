"""The published rows compared with the artifacts: every difference is found, and mended by a load."""

import re
import shutil

import duckdb
import polars as pl
import pytest
from catalogue_sample import Sample, everything_in

from influence_assets.storage.catalogue import differences, is_as_published, query, statements, was_built_anew
from influence_assets.storage.catalogue.comparison import COMPUTED_AFTER_LOADING
from tests.tiers import slow_but


@pytest.fixture
def sample(tmp_path):
    sample = Sample(tmp_path)
    sample.load(sample.shard(0))
    sample.load(sample.shard(0), sample.shard(1))
    return sample


def changed(sample, sql):
    """The file after another program ran a statement on it and closed it."""
    with duckdb.connect(str(sample.path)) as connection:
        connection.execute(sql).complete()


def filled_tables(sample):
    tables = set(statements.statements("schema")) - {"catalogue"}
    return sorted(table for table in tables if query(sample.path, f"from {table}").height)


def test_what_was_loaded_differs_in_nothing(sample):
    assert list(differences(sample.path, sample.store)) == []
    assert len(filled_tables(sample)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("loss", slow_but(of=["some", "twice", "all"], slow=("some",)))
def test_rows_too_few_or_too_many_are_found_in_every_table_and_gone_with_the_next_load(sample, loss):
    good = everything_in(sample.path)
    for table in filled_tables(sample):
        before = query(sample.path, f"from {table}").height
        sql = {
            "some": f"delete from {table} where rowid = (select min(rowid) from {table})",
            "twice": f"insert into {table} from {table} limit 1",
            "all": f"delete from {table}",
        }[loss]
        changed(sample, sql)
        assert query(sample.path, f"from {table}").height != before
        assert not is_as_published(sample.path)
        found = [difference.table for difference in differences(sample.path, sample.store)]
        # Without its own row, an artifact's other rows are unexplained.
        assert table in found or (table == "materializations" and "catalogue" in found)
        sample.load(sample.shard(0), sample.shard(1))
        assert everything_in(sample.path) == good
        assert is_as_published(sample.path)
        assert was_built_anew(sample.path)


CHANGED_VALUES = {
    "influence_scores": "influence_nats = influence_nats + 1e-12",
    "documents": "preview = 'other'",
    "sequences": "tokens = tokens + 1",
    "queries": "metadata = '{}'",
    "materializations": "run_id = null",
    "materialization_inputs": "input_data_version = 'x'",
}


@pytest.mark.parametrize("table", slow_but("documents", "influence_scores", of=CHANGED_VALUES, slow=()))
def test_one_other_value_is_found_and_named(sample, table):
    first = f"rowid = (select min(rowid) from {table})"
    changed(sample, f"update {table} set {CHANGED_VALUES[table]} where {first}")
    (found,) = differences(sample.path, sample.store)
    number = query(sample.path, f"select materialization_id from {table} where {first}").item()
    sql = "select asset from materializations where materialization_id = $1"
    asset = query(sample.path, sql, [number]).item()
    assert (found.table, found.artifact.partition("[")[0].split(" ")[0]) == (table, asset)
    assert found.published == found.stored > 0


def test_a_change_that_no_load_follows_does_not_spoil_later_loads(sample):
    """A load begins from nothing if another program changed the file, although its version is that of before."""
    changed(sample, "delete from documents")
    changed(sample, "insert into materialization_inputs from materialization_inputs")
    sample.load(sample.shard(0), sample.shard(1), sample.shard(2))
    assert list(differences(sample.path, sample.store)) == []
    assert query(sample.path, "select count(*) from documents").item() == 3


def test_artifacts_that_cannot_be_read_are_left_out(sample):
    scored = sample.shard(1)[2]
    scored.table_path("influence_scores").write_bytes(b"")
    assert list(differences(sample.path, sample.store)) == []


def test_an_artifact_that_was_computed_again_differs_only_in_the_number_of_its_rows(sample):
    """The file says who computed the rows that it has; they may differ by rounding, and are as right."""
    scored = sample.shard(1)[2]
    rows = scored.table("influence_scores").collect()
    for again, expected in (
        (rows, []),
        (rows.with_columns(pl.col("influence_nats") * (1 + 1e-9)), []),
        (rows.head(1), ["influence_scores"]),
    ):
        shutil.rmtree(scored.folder)
        sample.write(scored.key, scored.manifest.inputs, influence_scores=again)
        assert [each.table for each in differences(sample.path, sample.store)] == expected


def test_what_a_change_of_the_tables_computes_is_known_not_to_come_from_artifacts():
    """Every column that a statement of `sql/changes` sets."""
    sets = re.compile(r"^update (\w+)\s+set (\w+) =", re.MULTILINE)
    found = {match.groups() for each in statements.statements("changes").values() for match in sets.finditer(each.sql)}
    assert found
    assert found <= {(table, column) for table, columns in COMPUTED_AFTER_LOADING.items() for column in columns}
