"""Ids, prompts, titles and texts of any characters: everything runs, and every id finds its own rows."""

import re

import pytest

from influence_assets.engine.workspace import catalogue_path
from influence_assets.storage.catalogue import ask_cookbook
from influence_assets.study import Study
from tests import studies
from tests.commanding import influence
from tests.hostile import TEXTS

STEERING = r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u202e\u2066]"


@pytest.mark.slow
def test_a_study_of_hostile_texts_runs_and_every_id_finds_its_own_rows(tmp_path):
    study = studies.lay_out(tmp_path)
    for queries in (tmp_path / "queries").iterdir():
        queries.unlink()
    rows = [
        {"query_id": text, "prompt": f"{number} {text}"[:12], "completion": " rings"}
        for number, text in enumerate(TEXTS)
    ]
    studies.write_jsonl(tmp_path / "queries" / studies.FIRST, rows)
    documents = [
        {"text": f"{text} {number} the sea", "title": text, "source": text} for number, text in enumerate(TEXTS)
    ]
    studies.write_jsonl(tmp_path / "corpus" / "hostile.jsonl", documents)
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.out + ran.err
    again = influence("run", "--study", study)
    assert again.code == 0
    path = catalogue_path(Study.load(study))
    prompts = {row["query_id"]: row["prompt"] for row in rows}
    stored = studies.ask_sql(study, "select query_id, prompt from queries").rows()
    assert dict(stored) == prompts
    for text in TEXTS:
        found = ask_cookbook(path, "documents_behind_an_answer", {"query_id": text, "count": "5"})
        assert found.height == 5, text
    for number in ("7", "007", "2024", "1e3"):
        bound = ("--bind", f"query_id={number}", "--bind", "count=5")
        answered = influence("cookbook", "documents_behind_an_answer", *bound, "--study", study)
        assert answered.code == 0, answered.error
    for shown in (
        influence("status", "--study", study),
        influence("sql", "select query_id, prompt from queries", "--study", study, width=3000),
        influence("sql", "select title, source, preview from documents", "--study", study, width=3000),
        influence("verify", "--study", study),
        ran,
    ):
        assert shown.code == 0, shown.out + shown.err
        assert not re.search(STEERING, shown.out + shown.err)
