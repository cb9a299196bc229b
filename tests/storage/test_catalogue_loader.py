"""The loader: changes only what changed, publishes whole states, and never disturbs a reader."""

import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime

import duckdb
import polars as pl
import pytest

from influence_assets.errors import InputError, StorageError
from influence_assets.storage import catalogue
from influence_assets.storage.artifacts import ArtifactStore
from influence_assets.storage.catalogue import check_names, cookbook, load_catalogue, query, run_checks
from influence_assets.storage.manifest import ArtifactKey

SHARDS = ("a.jsonl", "b.jsonl")


class Sample:
    """A store of two shards of two sequences each, one query and one generation, whose scores are 1, 2, 3 and 4."""

    def __init__(self, root):
        self.store = ArtifactStore.open_or_create(
            root / "store*" / "date=1", "topics"
        )  # for DuckDB a glob and a Hive partition
        self.path = root / "catalogue.duckdb"
        self.curvature = self.write_curvature(1)
        self.queries = self.write_queries()

    def write(self, key, inputs=(), **tables):
        with self.store.write(key, inputs=inputs, code_version="7", run_id="run-1", settings={"length": 4}) as draft:
            for name, frame in tables.items():
                draft.table(name, frame)
        return self.store.open(key)

    def write_curvature(self, generation):
        row = {
            "generation_id": generation,
            "weights_hash": f"w{generation}",
            "model_path": "m",
            "tokenizer_hash": "t",
            "dtype": "float64",
            "fisher": "true",
            "damping_scale": 0.1,
            "sequence_length_tokens": 4,
            "training_sequences": 4,
            "training_tokens": 16,
            "attributed_parameters": 8,
            "total_parameters": 9,
            "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        }
        return self.write(ArtifactKey("curvature", None, f"g{generation}"), generations=pl.DataFrame([row]))

    def write_queries(self):
        row = {
            "query_id": "q",
            "query_set_id": "q.jsonl",
            "source_row": 1,
            "prompt": "p",
            "completion": "c",
            "metadata": '{"topic": "x"}',
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "log_probability_nats": -1.0,
            "gradient_norm": 1.0,
        }
        return self.write(ArtifactKey("query_gradients", "q.jsonl", "v1"), queries=pl.DataFrame([row]))

    def shard(self, number, version="v1", generation=1):
        """Documents, sequences and scores of a shard."""
        shard_id = SHARDS[number]
        first = 2 * number + 1
        documents = {
            "document_id": [f"d{number}"],
            "shard_id": shard_id,
            "source_row": 1,
            "external_id": None,
            "title": "T",
            "source": "s",
            "licence": "MIT",
            "author": None,
            "date": "2024-05-06",
            "url": None,
            "metadata": None,
            "characters": 300,
            "text": "x" * 300,
        }
        shards = {
            "shard_id": [shard_id],
            "path": f"/{shard_id}",
            "source_bytes": 9,
            "content_hash": version,
            "documents": 1,
            "duplicate_documents": 0,
            "characters": 300,
        }
        sequences = {"sequence_id": [first, first + 1], "shard_id": shard_id, "sequence_index": [0, 1]}
        spans = {"sequence_id": [first, first + 1], "document_id": f"d{number}", "token_start": 0, "token_end": 4}
        scores = {"query_id": "q", "sequence_id": [first, first + 1], "generation_id": generation}
        found = self.write(
            ArtifactKey("documents", shard_id, version), documents=pl.DataFrame(documents), shards=pl.DataFrame(shards)
        )
        packed = self.write(
            ArtifactKey("token_sequences", shard_id, version),
            [found.key],
            sequences=pl.DataFrame({**sequences, "tokens": 4, "text": "some words"}),
            sequence_documents=pl.DataFrame({**spans, "character_start": 0, "character_end": 300}),
        )
        scored = self.write(
            ArtifactKey("influence_scores", f"{shard_id}|q.jsonl", f"{version}-{generation}"),
            [packed.key, self.queries.key, self.curvature.key],
            influence_scores=pl.DataFrame({**scores, "influence_nats": [float(first), float(first + 1)]}),
        )
        return [found, packed, scored]

    def load(self, *shards, generation=1):
        wanted = [self.curvature, self.queries, *(artifact for shard in shards for artifact in shard)]
        return load_catalogue(self.path, wanted, "topics", generation)

    def scores(self):
        return query(self.path, "select influence_nats from current_scores order by all")["influence_nats"].to_list()


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
    assert abs(made["started_at"] - sample.curvature.manifest.started_at).total_seconds() < 1e-3


def test_only_the_stores_own_files_are_read(sample):
    """DuckDB takes the path for a pattern, and `store*` is that of another folder too."""
    shard = sample.shard(0)
    shutil.copytree(sample.store.root.parent, sample.path.parent / "stored")
    assert sample.load(shard).rows["influence_scores"] == 2


def test_an_input_that_is_not_loaded_is_still_named(sample):
    packed = sample.shard(0)[1]
    load_catalogue(sample.path, [packed], "topics", None)
    assert query(sample.path, "select input_asset, input_partition from materialization_inputs").rows() == [
        ("documents", "a.jsonl")
    ]


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


def test_the_views_show_the_current_generation_only(sample):
    old, new = sample.shard(0), sample.shard(0, generation=2)
    later = sample.write_curvature(2)
    sample.load(old, [later, new[2]])
    assert query(sample.path, "select generation_id from top_influences").rows() == [(1,), (1,)]
    change = sample.load(old, [later, new[2]], generation=2)
    assert (change.loaded, change.removed) == (0, 0)
    assert query(sample.path, "select generation_id from top_influences").rows() == [(2,), (2,)]
    assert query(sample.path, "select count(*) from influence_scores").item() == 4


def test_rows_lie_by_query_the_strongest_first(sample):
    sample.load(sample.shard(0))
    assert query(sample.path, "select influence_nats from influence_scores").rows() == [(2.0,), (1.0,)]


def test_another_schema_builds_from_empty(sample, monkeypatch):
    shard = sample.shard(0)
    sample.load(shard)
    monkeypatch.setattr(catalogue, "schema_version", lambda: "later")
    change = sample.load(shard)
    assert (change.loaded, change.removed) == (5, 0)
    assert query(sample.path, "select schema_version from catalogue").item() == "later"
    assert sample.scores() == [1.0, 2.0]


def test_a_damaged_catalogue_is_said_and_built_from_empty(sample):
    shard = sample.shard(0)
    sample.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="rebuild-catalogue"):
        query(sample.path, "select 1")
    assert sample.load(shard).loaded == 5
    assert sample.scores() == [1.0, 2.0]


class TestFailure:
    """What was published still stands, and nothing is left beside it."""

    @pytest.fixture
    def published(self, sample):
        sample.load(sample.shard(0))
        before = sample.path.read_bytes()
        yield sample
        assert sample.path.read_bytes() == before
        assert {path.name for path in sample.path.parent.iterdir()} == {
            "store*",
            "catalogue.duckdb",
            "catalogue.duckdb.lock",
        }

    def test_a_table_with_other_columns(self, published):
        wrong = published.write(ArtifactKey("documents", "x", "v1"), documents=pl.DataFrame({"document_id": ["d"]}))
        with pytest.raises(StorageError, match=r"documents\.parquet"):
            published.load([wrong])

    def test_a_table_that_is_not_as_it_was_written(self, published):
        shard = published.shard(1)
        table = shard[2].table_path("influence_scores")
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
        with pytest.raises(StorageError, match="not as it was written"):
            published.load(shard)

    def test_the_disk_is_full(self, published, monkeypatch):
        def full(*_arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shutil, "copyfile", full)
        with pytest.raises(StorageError, match="No space left"):
            published.load(published.shard(1))

    def test_the_loader_is_killed(self, published):
        """Killed while it holds the lock and a copy: the next load is not kept waiting by either."""
        code = """
            import sys, time
            from pathlib import Path
            from influence_assets.storage import catalogue, files
            from influence_assets.storage.artifacts import ArtifactStore

            def halt(path):
                print("copied", flush=True)
                time.sleep(600)

            files.sync_file = halt
            catalogue.load_catalogue(Path(sys.argv[1]), [], "topics", None)
        """
        before = published.path.read_bytes()
        loader = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), published.path], stdout=subprocess.PIPE, text=True
        )
        assert loader.stdout.readline() == "copied\n"
        loader.send_signal(signal.SIGKILL)
        loader.wait()
        assert published.path.with_name(".catalogue.duckdb.loading").exists()
        assert published.path.read_bytes() == before
        assert published.scores() == [1.0, 2.0]
        change = published.load(published.shard(0))
        assert (change.loaded, change.removed) == (0, 0)
        second = published.shard(1)
        assert published.load(published.shard(0), second).loaded == 3
        published.path.write_bytes(before)


def test_a_reader_sees_only_complete_states_and_no_error(sample):
    """A process asks ten times a second and more while shards come and go; each answer is one load's."""
    first, second = sample.shard(0), sample.shard(1)
    sample.load(first)
    code = """
        import sys, time
        from pathlib import Path
        from influence_assets.storage.catalogue import query
        asked = 0
        while not Path(sys.argv[2]).exists() or asked < 10:
            row = query(Path(sys.argv[1]), '''
                select (select count(*) from shards), (select count(*) from sequences),
                (select count(*) from documents), (select count(*) from influence_scores),
                (select count(*) from materializations),
                (select count(*) from catalogue)
            ''').row(0)
            print(row, flush=True)
            asked += 1
            time.sleep(0.02)
    """
    done = sample.path.with_name("done")
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), sample.path, done], stdout=subprocess.PIPE, text=True
    )
    answers = [reader.stdout.readline()]  # the first load only begins when the reader is at work
    listener = threading.Thread(target=lambda: answers.extend(reader.stdout))
    listener.start()
    for _ in range(6):
        sample.load(first, second)
        sample.load(first)
        time.sleep(0.02)
    done.touch()
    assert reader.wait(60) == 0
    listener.join()
    assert set(answers) == {"(1, 2, 1, 2, 5, 1)\n", "(2, 4, 2, 4, 8, 1)\n"}


def test_an_open_reader_keeps_its_state_and_the_next_sees_the_new_one(sample):
    """DuckDB would give the second connection of a process the first one's old file."""
    first = sample.shard(0)
    sample.load(first)
    with catalogue._reader(sample.path) as reader:
        sample.load(first, sample.shard(1))
        assert reader.execute("select count(*) from shards").fetchall() == [(1,)]
        assert query(sample.path, "select count(*) from shards").item() == 2


def test_a_load_waits_for_the_one_before(sample):
    shard = sample.shard(0)
    with catalogue.files.exclusive_lock(sample.path.with_name("catalogue.duckdb.lock")):
        loader = threading.Thread(target=sample.load, args=(shard,))
        loader.start()
        loader.join(0.3)
        assert not sample.path.exists()
    loader.join()
    assert sample.scores() == [1.0, 2.0]


class TestQuery:
    def test_without_a_catalogue_says_what_to_do(self, tmp_path):
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
    def test_can_neither_write_nor_read_other_files(self, sample, sql):
        frame = pl.DataFrame({"a": [1]})
        assert frame.height
        sample.load(sample.shard(0))
        folder = sample.path.parent
        (folder / "secret.txt").write_text("secret")
        before = sample.path.read_bytes(), sorted(folder.iterdir())
        with pytest.raises(InputError, match="can only be read"):
            query(sample.path, sql.format(folder=folder))
        assert (sample.path.read_bytes(), sorted(folder.iterdir())) == before

    def test_binds_values(self, sample):
        sample.load(sample.shard(0))
        hostile = "x'; drop table documents; --"
        assert query(sample.path, "select $v as v", {"v": hostile}).item() == hostile
        assert query(sample.path, "select ? + ?", [1, 2]).item() == 3

    @pytest.mark.parametrize(
        "sql", ["show tables", "describe top_influences", "explain select 1", "summarize documents"]
    )
    def test_answers_what_people_ask_first(self, sample, sql):
        sample.load(sample.shard(0))
        assert query(sample.path, sql).height > 0

    def test_json_is_text_that_sql_can_look_into(self, sample):
        sample.load(sample.shard(0))
        assert query(sample.path, "select metadata ->> 'topic' from queries").item() == "x"

    def test_every_question_of_the_cookbook_is_answered(self, sample):
        sample.load(sample.shard(0), sample.shard(1))
        values = {"query_id": "q", "query_set_id": "q.jsonl", "sequence_id": 1, "document_id": "d0", "count": 3}
        for statement in cookbook().values():
            bound = {name: {**values, "phrase": "Words"}[name] for name in statement.parameters}
            answer = query(sample.path, statement.sql, bound)
            assert answer.height > 0 or statement.name in {"layers_of_a_passage", "tokens_of_a_passage"}, statement.name


def test_the_file_is_in_a_format_that_earlier_duckdb_versions_open(sample):
    sample.load(sample.shard(0))
    with duckdb.connect(str(sample.path), read_only=True) as connection:
        [[tags]] = connection.execute("select tags from duckdb_databases() where not internal").fetchall()
    assert tags["storage_version"].startswith("v1.2")
