"""Files without a document block nothing: they are shards with nothing in them."""

import gzip
import io

import polars as pl
import pytest

from influence_assets.engine.notes import notes_of
from influence_assets.errors import InputError
from influence_assets.storage.catalogue import run_checks
from tests import studies


def no_rows():
    buffer = io.BytesIO()
    pl.DataFrame(schema={"text": pl.String}).write_parquet(buffer)
    return buffer.getvalue()


EMPTY = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n \n",
    "empty.txt": b"",
    "packed.md.gz": gzip.compress(b""),
    "none.parquet": no_rows(),
}


def write_empty(study):
    for name, content in EMPTY.items():
        (study.parent / "corpus" / name).write_bytes(content)


def assert_nothing_changed(study, before):
    assert studies.scores(study) == before
    counts = dict(studies.ask_sql(study, "select shard_id, documents from shards").iter_rows())
    assert {name: counts[name] for name in EMPTY} == dict.fromkeys(EMPTY, 0)
    for name in EMPTY:
        (note,) = notes_of(studies.artifact(study, "documents", shard=name).manifest)
        assert "empty" in note
    assert not any(len(rows) for rows in run_checks(studies.versions_of(study).workspace.catalogue).values())
    assert studies.compute(study) == []


def test_files_that_come_empty_add_nothing(study):
    before = studies.scores(study)
    write_empty(study)
    assert "influence_scores[first.jsonl|empty.txt]" in studies.compute(study)
    assert_nothing_changed(study, before)
    (study.parent / "corpus" / "empty.txt").write_text("And now there is a text in it, of some words.")
    studies.compute(study)
    assert studies.sequences_of(study, "empty.txt")


@pytest.mark.slow
def test_a_generation_fitted_on_empty_files_too_is_that_of_the_others(standing, tmp_path):
    study = studies.lay_out(tmp_path)
    write_empty(study)
    studies.compute(study)
    expected = studies.scores(standing)
    found = studies.scores(study)
    assert found.keys() == expected.keys()
    assert found == {pair: pytest.approx(score, rel=1e-9, abs=1e-9) for pair, score in expected.items()}
    assert_nothing_changed(study, found)


def test_a_corpus_of_empty_files_is_an_error(tmp_path):
    study = studies.lay_out(tmp_path)
    for name in (studies.COAST, studies.TRADES):
        (tmp_path / "corpus" / name).unlink()
    write_empty(study)
    with pytest.raises(InputError, match="holds no token that can be predicted"):
        studies.compute(study)
