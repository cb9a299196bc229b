"""Rows that are left out because they cannot be used: counted, listed, and not used where they are refused."""

import json

import pytest

from influence_assets.corpus.documents import document_id
from influence_assets.engine.notes import notes_of
from influence_assets.storage.catalogue import run_checks
from tests import studies
from tests.commanding import influence
from tests.studies import COAST, TRADES

BAD = ["no JSON", '{"text": ""}']
SKIPPED = "select shard_id, source_row, problem from skipped_rows order by all"
COUNTS = "select shard_id, documents, skipped_rows from shards order by all"


def spoil(study):
    """Put bad rows before, between and after the good ones of a file."""
    path = study.parent / "corpus" / COAST
    good = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([BAD[0], *good[:2], BAD[1], *good[2:]]) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_they_are_left_out_counted_and_listed(study):
    before = studies.scores(study)
    spoil(study)
    refused = influence("run", "--study", study)
    assert refused.code == 1
    assert f"{COAST}: 2 rows cannot be used (row 1: is not JSON" in refused.out
    assert "row 4: `text` is empty or only white space" in refused.out
    assert "set corpus.on_bad_row to skip" in refused.out

    studies.write_study(study.parent, corpus={"on_bad_row": "skip"})
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    assert "2 rows were left out as unusable" in ended.out
    assert len(studies.scores(study)) == len(before)
    assert studies.ask_sql(study, COUNTS).rows() == [(COAST, 4, 2), (TRADES, 3, 0)]
    (first, second) = studies.ask_sql(study, SKIPPED).rows()
    assert (first[:2], second[:2]) == ((COAST, 1), (COAST, 4))
    (note,) = notes_of(studies.artifact(study, "documents", shard=COAST).manifest)
    assert "skipped_rows" in note
    assert not any(len(rows) for rows in run_checks(studies.versions_of(study).workspace.catalogue).values())
    assert studies.compute(study) == []


@pytest.mark.slow
def test_a_change_of_mind_touches_files_with_bad_rows_alone(study):
    studies.write_study(study.parent, corpus={"on_bad_row": "skip"})
    assert studies.compute(study) == [], "no row of these files is bad"
    spoil(study)
    studies.compute(study)
    studies.write_study(study.parent)
    status = influence("status", "--study", study).out
    assert "which of its rows are left out as unusable changed" in status
    refused = influence("run", "--study", study)
    assert refused.code == 1
    assert "2 rows cannot be used" in refused.out
    assert studies.ask_sql(study, COUNTS).rows() == [(COAST, 4, 2), (TRADES, 3, 0)], "what is published stays"
    studies.write_study(study.parent, corpus={"on_bad_row": "skip"})
    assert studies.compute(study) == [], "what was computed is good again"


@pytest.mark.slow
def test_a_row_that_becomes_usable_is_used_and_one_that_is_withdrawn_stays_out(study, tmp_path):
    """A row was too long: what was computed without it is old then, and so is which of the documents are withdrawn."""
    long, secret = "The light is seen from afar. " * 4, "The keeper's secret is that he is afraid of the dark. " * 2
    path = study.parent / "corpus" / COAST
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    studies.write_jsonl(path, [*rows, {"text": long, "title": "Long"}, {"text": secret, "title": "Secret"}])
    withdrawn = tmp_path / "withdrawn.txt"
    withdrawn.write_text(document_id(secret) + "\n")
    limited = {"on_bad_row": "skip", "withdrawn": str(withdrawn)}
    studies.write_study(study.parent, corpus={**limited, "max_document_bytes": 80})
    studies.compute(study)
    assert [row for _, row, _ in studies.ask_sql(study, SKIPPED).rows()] == [5, 6]
    studies.write_study(study.parent, corpus=limited)
    computed = studies.compute(study)
    assert f"token_sequences[{COAST}]" in computed
    assert studies.ask_sql(study, SKIPPED).rows() == []
    titles = set(studies.ask_sql(study, "select title from documents where shard_id = $1", [COAST])["title"])
    assert "Long" in titles
    assert "Secret" not in titles
    assert studies.compute(study) == []
