"""What is told of documents that go: what vanished, what a run dropped, and what still holds a forgotten document."""

import hashlib

import pytest

from influence_assets.assets import open_without_extensions
from influence_assets.study import Study
from influence_assets.upkeep.holders import holders
from tests import studies
from tests.commanding import influence
from tests.studies import COAST, FIRST, SECOND, TRADES

GULLS, SMITH = studies.COAST_ROWS[3]["text"], studies.TRADES_ROWS[1]["text"]
LENGTH = {"length": 32}
TRAINED = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 1}


def document_id(text):
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def held(study, *texts):
    """What holds these documents, as `asset` and whether it is a trained model."""
    found = holders(open_without_extensions(Study.load(study)), [document_id(text) for text in texts])
    return {(holder.key.asset, holder.was_trained, holder.generation_id) for holder in found}


OF_FIRST = {("eigenbases", False, 1), ("curvature", False, 1)}


@pytest.mark.soak
def test_a_generation_that_was_fitted_on_a_document_is_told(study):
    """Also when the document's own artifacts are gone, and not of documents that came after it was fitted."""
    studies.write_extra(study)
    studies.compute(study)
    assert held(study, GULLS) >= OF_FIRST
    assert not OF_FIRST & held(study, studies.EXTRA_TEXT)
    assert held(study, "a text that nobody has") == set()
    ended = influence("forget", "--document", document_id(GULLS), "--study", study)
    assert ended.code == 0, ended.out
    assert "Still fitted on them: the curvature of generation 1" in ended.out
    assert "Whether the model of `model.path` has seen them is not known here." in ended.out
    assert "Still trained" not in ended.out
    assert held(study, GULLS) >= OF_FIRST, "the artifacts with its text are gone"
    ended = influence("forget", "--document", document_id(studies.EXTRA_TEXT), "--study", study)
    assert "Still fitted on them" not in ended.out


@pytest.mark.soak
def test_a_model_that_was_trained_on_a_document_is_told(tmp_path):
    study = studies.lay_out(tmp_path, model={"path": None, "train": TRAINED, "dtype": "float32"}, sequences=LENGTH)
    studies.compute(study)
    studies.write_extra(study)
    studies.compute(study)
    assert {("language_model", True, None)} | OF_FIRST <= held(study, SMITH)
    assert not [asset for asset, was_trained, _ in held(study, studies.EXTRA_TEXT) if was_trained]
    ended = influence("forget", "--document", document_id(SMITH), "--study", study)
    assert ended.code == 0, ended.out
    assert "Still trained on them: 1 model of this study." in ended.out
    assert "is not known here" not in ended.out

    # The remedy that is told.
    studies.write_study(
        tmp_path, model={"path": None, "train": TRAINED | {"seed": 1}, "dtype": "float32"}, sequences=LENGTH
    )
    assert influence("run", "--study", study).code == 0
    assert influence("gc", "--keep", "0", "--study", study).code == 0
    assert held(study, SMITH) == set()


@pytest.mark.slow
def test_status_says_what_vanished_and_run_what_it_dropped(study):
    corpus, queries = study.parent / "corpus", study.parent / "queries"
    studies.write_jsonl(corpus / COAST, studies.COAST_ROWS[:2])
    (corpus / TRADES).unlink()
    (queries / SECOND).unlink()
    told = influence("status", "--study", study).out
    assert f"Gone from the corpus: 1 shard with 3 documents: {TRADES}" in told
    assert f"Gone from the queries: 1 query set with 1 question: {SECOND}" in told
    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out
    assert f"Dropped from the tables: 1 shard with 3 documents ({TRADES}) and 2 documents of {COAST}." in ended.out
    assert f"Dropped from the tables: 1 query set with 1 question ({SECOND})." in ended.out
    assert "Dropped" not in influence("run", "--study", study).out
    told = influence("status", "--study", study).out
    assert f"because their files are gone from the corpus: 1 shard with 3 documents: {TRADES}" in told
    assert "Gone from the queries" not in told

    # What returns is told of no more, and nothing that was only added counts as dropped.
    studies.write_parquet(corpus / TRADES, studies.TRADES_ROWS)
    ended = influence("run", "--study", study)
    assert (ended.code, "Dropped" in ended.out) == (0, False)
    assert "gone from the corpus" not in influence("status", "--study", study).out


@pytest.mark.slow
def test_rows_of_a_query_file_that_go_are_dropped(study):
    studies.write_jsonl(study.parent / "queries" / FIRST, studies.FIRST_ROWS[:1])
    ended = influence("run", "--study", study)
    assert f"Dropped from the tables: 1 question of {FIRST}." in ended.out
