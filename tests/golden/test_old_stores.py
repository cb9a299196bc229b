"""A store that an earlier release wrote: it is read as it is, or refused by name with what to do about it.

`store_format_3.tar.gz` is the study of `tiny_study`, less one source file and one query file, as `influence run` and
then `influence forget` of version 0.1.0 left it; without Dagster's files and the caches, which are made again.
"""

import hashlib
import tarfile
from pathlib import Path

import duckdb
import pytest
from scipy.stats import pearsonr

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
    # Its statistics were kept shard by shard, so another generation is fitted: text, tokens and the model are used as
    # they are. It is without the document that was withdrawn after the first was fitted, so scores differ a little.
    assert "Nothing to do" in influence("run", "--study", study).out
    assert catalogue_rows(study, "select generation_id from generations where is_current") == [(2,)]
    new_scores = catalogue_rows(study, SCORES)
    assert [pair for *pair, _ in new_scores] == [pair for *pair, _ in scores]
    assert pearsonr([score for *_, score in new_scores], [score for *_, score in scores]).statistic > 0.98
    kept = artifacts(study)
    assert {path: kept.get(path) for path in stored} == stored, "an artifact of the old store was changed"
    of_text = ("documents/", "language_model/", "token_sequences/")
    assert not [path for path in kept.keys() - stored.keys() if path.startswith(of_text)]
    # What no release reads any more goes with the garbage.
    collected = influence("gc", "--keep", "0", "--study", study)
    assert collected.code == 0, collected.error
    assert {path.split("/")[1] for path in artifacts(study) if path.startswith("covariances/")} <= {"all"}
    assert "Nothing to do" in influence("run", "--study", study).out


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
