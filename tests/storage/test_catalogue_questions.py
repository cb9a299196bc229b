"""Questions to the catalogue: they can read it and nothing else."""

import re
import shutil

import polars as pl
import pytest
from catalogue_sample import DAY, Sample, states, tombstones

from influence_assets.errors import InputError, StorageError
from influence_assets.storage.catalogue import (
    ask_cookbook,
    cookbook,
    damaged_tables,
    has_holes,
    loaded_keys,
    query,
    run_checks,
)
from influence_assets.storage.catalogue import statements as statements_module
from influence_assets.storage.catalogue.statements import sql_folder
from tests.tiers import slow_but


@pytest.fixture
def sample(tmp_path):
    return Sample(tmp_path)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """One that holds two shards, for questions that change nothing."""
    sample = Sample(tmp_path_factory.mktemp("asked"))
    sample.load(sample.shard(0), sample.shard(1))
    return sample


def test_without_a_catalogue_says_what_to_do(tmp_path):
    for ask in (lambda path: query(path, "select 1"), run_checks):
        with pytest.raises(StorageError, match="influence run"):
            ask(tmp_path / "none.duckdb")


@pytest.mark.parametrize(
    "sql",
    [
        "delete from documents",
        "drop view top_influences",
        "create table mine as select 1",
        "copy documents to '{folder}/out.csv'",
        "select * from read_text('{folder}/secret.txt')",
        "select * from '{folder}/secret.txt'",
        "attach '{folder}/other.duckdb'",
        "export database '{folder}/out'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "reset lock_configuration",
        "pragma enable_checkpoint_on_shutdown; set threads = 1",
        "select * from frame",
    ],
)
def test_can_neither_write_nor_read_other_files(asked, sql):
    frame = pl.DataFrame({"a": [1]})
    assert frame.height
    folder = asked.path.parent
    (folder / "secret.txt").write_text("secret")
    before = asked.path.read_bytes(), sorted(folder.iterdir())
    with pytest.raises(InputError, match="can only be read"):
        query(asked.path, sql.format(folder=folder))
    assert (asked.path.read_bytes(), sorted(folder.iterdir())) == before


def test_binds_values(asked):
    hostile = "x'; drop table documents; --"
    assert query(asked.path, "select $v as v", {"v": hostile}).item() == hostile
    assert query(asked.path, "select ? + ?", [1, 2]).item() == 3


@pytest.mark.parametrize("sql", ["show tables", "describe top_influences", "explain select 1", "summarize documents"])
def test_answers_what_people_ask_first(asked, sql):
    assert query(asked.path, sql).height > 0


def test_json_is_text_that_sql_can_look_into(asked):
    assert query(asked.path, "select metadata ->> 'topic' from queries").item() == "x"


def test_every_question_of_the_cookbook_is_answered(sample):
    old = [sample.write_curvature(2), sample.shard(0, generation=2)[2]]
    outdated = states([("documents", "c.jsonl", "missing", None, None, "new")])
    gone = tombstones([("c.jsonl", "d2", "asked for", DAY)])
    sample.load(sample.shard(0), sample.shard(1), old, [sample.write_drift()], states=outdated, tombstones=gone)
    values = {"query_id": "q", "query_set_id": "q.jsonl", "sequence_id": 1, "document_id": "d0", "count": 3,
              "fewest_tokens": 1}  # fmt: skip
    # No details are loaded here, no self-influence, no ensemble and no groups: tests/sql has them.
    without_rows = {"layers_of_a_passage", "tokens_of_a_passage", "certain_documents", "documents_with_self_influence",
                    "groups_behind_an_answer"}  # fmt: skip
    for statement in cookbook().values():
        bound = {name: {**values, "phrase": "Words"}[name] for name in statement.parameters}
        answer = query(sample.path, statement.sql, bound)
        assert answer.height > 0 or statement.name in without_rows, statement.name


@pytest.mark.parametrize(
    "text", slow_but("17", "²", "", of=["17", "-5", "--5", "²", "1984", "", "it's", "1e3", "true"], slow=())
)
def test_what_looks_like_a_number_can_be_an_id_or_a_phrase(text, asked):
    """Values arrive as text from the command line; only the query knows which of them are numbers."""
    unknown = rf"(query_id|query_set_id|document_id) {re.escape(repr(text))}: is not in the table|sequence_id '1'"
    values = {"query_id": text, "query_set_id": text, "document_id": text, "phrase": text}
    for name, statement in cookbook().items():
        numbers = {"sequence_id": "1", "count": "3", "fewest_tokens": "1"}
        bound = {parameter: {**values, **numbers}[parameter] for parameter in statement.parameters}
        ids = [parameter for parameter in bound if parameter.endswith("_id")]
        if not ids:
            ask_cookbook(asked.path, name, bound)
            continue
        with pytest.raises(InputError, match=unknown):
            ask_cookbook(asked.path, name, bound)


@pytest.mark.parametrize("asking", [name for name, s in cookbook().items() if any("_id" in p for p in s.parameters)])
def test_an_id_that_nothing_has_is_refused_with_the_nearest_ones(asking, asked):
    known = {
        column: str(query(asked.path, f"select {column} from {table} limit 1").item())
        for table, column in {
            "queries": "query_id", "documents": "document_id", "sequences": "sequence_id",
        }.items()
    }  # fmt: skip
    known |= {"query_set_id": query(asked.path, "select query_set_id from queries").item(0, 0), "count": "3"}
    parameters = cookbook()[asking].parameters
    for unknown in (parameter for parameter in parameters if parameter.endswith("_id")):
        mistyped = f"{known[unknown]}0" if unknown == "sequence_id" else f"{known[unknown]}x"
        values = {parameter: known[parameter] for parameter in parameters} | {unknown: mistyped}
        named = (
            rf"^{unknown} '{re.escape(mistyped)}': is not in the table .*The nearest: .*'{re.escape(known[unknown])}'"
        )
        with pytest.raises(InputError, match=named):
            ask_cookbook(asked.path, asking, values)


@pytest.mark.parametrize("count", ["many", "²", "--5", "", "1.5.2"])
def test_what_is_no_number_is_refused_with_what_is_asked_for(count, asked):
    asking = [name for name, statement in cookbook().items() if "count" in statement.parameters]
    assert asking
    for name in asking:
        values = dict.fromkeys(cookbook()[name].parameters, "q") | {"count": count}
        said = rf"(?s)^{name}: .*Could not convert.*It asks for: .*count \(how many rows\)"
        with pytest.raises(InputError, match=said):
            ask_cookbook(asked.path, name, values)


def test_names_what_is_loaded_and_not_what_that_was_computed_from(sample):
    assert loaded_keys(sample.path) == []
    packed = sample.shard(0)[1]
    sample.load([packed])
    wanted = [sample.curvature.key, sample.queries.key, packed.key]
    assert loaded_keys(sample.path) == sorted(wanted, key=lambda key: key.asset)
    sample.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="rebuild-catalogue"):  # and not that nothing is loaded
        loaded_keys(sample.path)


def test_what_cannot_be_read_may_hold_anything(sample):
    assert not has_holes(sample.path)
    sample.path.write_bytes(b"not a database" * 1000)
    assert has_holes(sample.path)


@pytest.mark.slow
def test_a_table_that_cannot_be_read_is_named_wherever_the_damage_is(sample):
    """A byte is flipped in every block in turn: each is noticed by a table, or belongs to what opens the file."""
    sample.load(*(sample.shard(number) for number in range(3)))
    assert damaged_tables(sample.path) == {}
    whole, block = sample.path.read_bytes(), 2**18
    named = set()
    for start in range(3 * 2**12, len(whole), block):
        flipped = bytearray(whole)
        flipped[start + 100] ^= 1
        sample.path.write_bytes(flipped)
        try:
            named |= damaged_tables(sample.path).keys()
        except StorageError:
            named.add("the file")
    assert named >= {"the file", "documents", "influence_scores", "materializations"}
    with pytest.raises(StorageError, match="influence run"):
        damaged_tables(sample.path.with_name("none"))


def test_a_catalogue_of_another_schema_is_outdated_and_not_damaged(sample, monkeypatch, tmp_path):
    """An asset with a table was added since, or another build has another table."""
    sample.load(sample.shard(0))
    shutil.copytree(sql_folder(), tmp_path / "sql")
    (tmp_path / "sql" / "schema" / "new_table.sql").write_text("-- New.\ncreate table new_table (one integer);\n")
    (tmp_path / "sql" / "schema" / "shards.sql").unlink()
    monkeypatch.setattr(statements_module, "sql_folder", lambda: tmp_path / "sql")
    assert "new_table" in statements_module.statements("schema")
    assert damaged_tables(sample.path) == {}
