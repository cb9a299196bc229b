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


def artifacts(study):
    """Every file of the artifacts in the store, with the hash of its content; but for those of the catalogue."""
    store = study.parent / "store"
    files = (path for path in store.glob("[!.]*/*/*/**/*") if path.is_file())
    hashes = {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {path: content for path, content in hashes.items() if not path.startswith("influence_catalogue/")}


@pytest.mark.slow
def test_a_store_of_format_3_is_read(study):
    scores, stored = catalogue_rows(study, SCORES), artifacts(study)
    assert scores
    verified = influence("verify", "--study", study)
    assert verified.code == 0, verified.error
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    # The questions' gradients, three of scores, which now have parts, the details that rest on them, and the tables.
    assert "Computed 6 partitions" in ran.out, ran.out
    assert "Nothing to do" in influence("run", "--study", study).out
    for (*pair, score), (*old_pair, old_score) in zip(catalogue_rows(study, SCORES), scores, strict=True):
        assert pair == old_pair
        assert score == pytest.approx(old_score, rel=1e-6, abs=1e-9)
    kept = artifacts(study)
    assert {path: kept.get(path) for path in stored} == stored, "an artifact of the old store was changed"
    anew = ("query_gradients/", "influence_scores/", "influence_details/")
    assert all(path.startswith(anew) for path in kept.keys() - stored.keys())


@pytest.mark.slow
def test_what_was_withdrawn_from_an_old_store_stays_out(study):
    (study.parent / "corpus" / "note.txt").write_text("The harbour master is ill today.", encoding="utf-8")
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert catalogue_rows(study, "select count(*) from shards where shard_id = 'note.txt'") == [(1,)]
    assert catalogue_rows(study, f"select count(*) from documents where document_id = '{WITHDRAWN}'") == [(0,)]
    assert catalogue_rows(study, f"select reason from tombstones where document_id = '{WITHDRAWN}'") == [
        ("asked for by the author",)
    ]


@pytest.mark.soak
def test_an_old_artifact_that_loses_its_manifest_is_computed_again(study):
    manifest = sorted((study.parent / "store").glob("token_sequences/*/*/manifest.json"))[0]
    assert influence("status", "--study", study).code == 0  # it gets the records that it lacks
    manifest.unlink()
    assert influence("verify", "--study", study).code == 1
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert manifest.exists()
