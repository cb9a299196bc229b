"""A store that an earlier release wrote: it is read as it is, or refused by name with what to do about it.

`store_format_3.tar.gz` is the study of `tiny_study`, less one source file and one query file, as `influence run` and
then `influence forget` of version 0.1.0 left it; without Dagster's files and the caches, which are made again.
"""

import hashlib
import tarfile
from pathlib import Path

import duckdb
import pytest

from tests.commanding import influence

OLD_STORE = Path(__file__).with_name("store_format_3.tar.gz")
SCORES = "select query_id, sequence_id, influence_nats from current_scores order by all"
WITHDRAWN = "df9388d228f464d7f0a46ceb55b1614f"


@pytest.fixture
def study(tmp_path):
    with tarfile.open(OLD_STORE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "study.yaml"


def catalogue_rows(study, sql):
    with duckdb.connect(str(study.parent / "store" / "influence.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def hashes(folder):
    """Every file below a folder that is not a lock, with the hash of its content."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_store_of_format_3_is_read(study):
    scores = catalogue_rows(study, SCORES)
    stored = {name: held for name, held in hashes(study.parent / "store").items() if "/" in name}
    assert scores
    verified = influence("verify", "--study", study)
    assert verified.code == 0, verified.error
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert "Nothing to do" in ran.out, ran.out
    assert catalogue_rows(study, SCORES) == scores
    assert stored.items() <= hashes(study.parent / "store").items(), "an artifact of the old store was changed"


def test_what_was_withdrawn_from_an_old_store_stays_out(study):
    (study.parent / "corpus" / "note.txt").write_text("The harbour master is ill today.", encoding="utf-8")
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert catalogue_rows(study, "select count(*) from shards where shard_id = 'note.txt'") == [(1,)]
    assert catalogue_rows(study, f"select count(*) from documents where document_id = '{WITHDRAWN}'") == [(0,)]
    assert catalogue_rows(study, f"select reason from tombstones where document_id = '{WITHDRAWN}'") == [
        ("asked for by the author",)
    ]
