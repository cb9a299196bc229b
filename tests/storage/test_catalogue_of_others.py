"""Other programs that open the published file for writing: what they leave beside it is never read as published."""

import subprocess
import sys
import textwrap

import duckdb
import pytest
from catalogue_sample import Sample, everything_in

from influence_assets.errors import StorageError
from influence_assets.storage.catalogue import damaged_tables, loaded_keys, query, run_checks, standing_content_version

WRITER = """
    import duckdb, sys
    connection = duckdb.connect(sys.argv[1])
    connection.execute(sys.argv[2]).complete()
    print("ready", flush=True)
    sys.stdin.read()
"""
CHANGES = ["delete from documents", "update influence_scores set influence_nats = -1", "drop view top_influences"]


@pytest.fixture
def sample(tmp_path):
    sample = Sample(tmp_path)
    sample.load(sample.shard(0), sample.shard(1))
    return sample


class Writer:
    """A program that opens the file for writing, runs a statement, and waits."""

    def __init__(self, path, sql):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), sql]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.mark.parametrize("look", [run_checks, damaged_tables, loaded_keys, lambda path: query(path, "select 1")])
def test_one_that_holds_the_file_is_named(sample, look):
    with (
        Writer(sample.path, "select 1") as writer,
        pytest.raises(StorageError, match=rf"process {writer.process.pid}\) holds the catalogue open for writing"),
    ):
        look(sample.path)
    look(sample.path)


@pytest.mark.parametrize("sql", CHANGES)
def test_changes_of_one_that_was_killed_are_not_read_and_gone_after_the_next_load(sample, sql):
    published, version = everything_in(sample.path), standing_content_version(sample.path)
    with Writer(sample.path, sql):
        pass
    log = sample.path.with_name(f"{sample.path.name}.wal")
    assert log.exists()
    for look in (run_checks, damaged_tables, loaded_keys, lambda path: query(path, "select 1")):
        with pytest.raises(
            StorageError, match=r"\.wal: was left by a program that changed the catalogue.*influence run"
        ):
            look(sample.path)
    assert standing_content_version(sample.path) is None
    sample.load(sample.shard(0), sample.shard(1))
    assert not log.exists()
    assert (everything_in(sample.path), standing_content_version(sample.path)) == (published, version)


def test_while_one_writes_the_next_load_is_published_all_the_same(sample):
    with Writer(sample.path, "delete from documents"):
        sample.load(sample.shard(0), sample.shard(1))
        assert query(sample.path, "select count(*) from documents").item() > 0


def test_a_program_that_only_reads_leaves_nothing(sample):
    with duckdb.connect(str(sample.path), read_only=True) as connection:
        assert connection.sql("select count(*) from documents").fetchall()[0][0] > 0
        query(sample.path, "select 1")
    query(sample.path, "select 1")
