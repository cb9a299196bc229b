"""Answers about stored and new questions, against the tables and against each other."""

import numpy as np
import pytest

from influence_assets.api import ask, strongest
from influence_assets.errors import InputError
from tests import studies

LAMP = studies.FIRST_ROWS[0]


@pytest.fixture(scope="module")
def answer(standing):
    return strongest(studies.versions_of(standing, "published"), "lamp", 6)


def test_the_strongest_are_those_of_the_tables(standing, answer):
    rows = studies.ask_sql(standing, "select * from top_influences where query_id = 'lamp' and rank <= 6 order by rank")
    assert [p.sequence_id for p in answer.passages] == rows["sequence_id"].to_list()
    assert [p.influence_nats for p in answer.passages] == rows["influence_nats"].to_list()
    assert [p.text for p in answer.passages] == rows["text"].to_list()
    assert [answer.is_beyond(p) for p in answer.passages] == rows["exceeds_what_remains"].to_list()
    assert (answer.prompt, answer.completion) == (LAMP["prompt"], LAMP["completion"])
    assert answer.left_out == 0
    assert {p.trained_on for p in answer.passages} == {None}


def test_documents_come_with_their_parts_the_largest_first(standing, answer):
    for passage in answer.passages:
        sql = (
            "select document_id, influence_nats from current_scores_by_document inner join documents "
            "using (document_key) where query_id = 'lamp' and sequence_id = $1 order by 2 desc"
        )
        expected = studies.ask_sql(standing, sql, [passage.sequence_id]).rows()
        assert [(d["document_id"], d["influence_nats"]) for d in passage.documents] == expected
        assert sum(d["influence_nats"] for d in passage.documents) == pytest.approx(passage.influence_nats)
    assert any(len(passage.documents) > 1 for passage in answer.passages)


def test_tokens_stand_where_their_text_is(standing, answer):
    """Each token's place in the passage spells the token, across documents too."""
    split = [p for p in answer.passages if p.tokens is not None]
    assert split
    for passage in split:
        sql = (
            "select token, influence_nats from token_influence where query_id = 'lamp' and sequence_id = $1 "
            "order by token_position"
        )
        rows = studies.ask_sql(standing, sql, [passage.sequence_id])
        assert rows["influence_nats"].to_list() == passage.tokens.influence_nats.tolist()
        places = zip(passage.tokens.starts, passage.tokens.ends, rows["token"], strict=True)
        for start, end, token in places:
            assert passage.text[start:end] == ("" if token == studies.END else token)


def test_cut_words_are_known_whole(standing):
    whole = {row["text"] for row in [*studies.COAST_ROWS, *studies.TRADES_ROWS]}
    answers = strongest(studies.versions_of(standing, "published"), "lamp", 100).passages
    completed = [p.before + p.text + p.after for p in answers]
    assert any(p.before or p.after for p in answers)
    for text in completed:
        for part in text.split("\n\n"):
            (document,) = (document for document in whole if part in document)
            start = document.index(part)
            for edge in (start, start + len(part)):
                inner = document[max(0, edge - 1) : edge + 1]
                assert len(inner) < 2 or edge == 0 or not inner.isalnum()


def test_a_new_question_has_the_scores_of_a_stored_one(standing):
    versions = studies.versions_of(standing, "published")
    asked = ask(versions, LAMP["prompt"], LAMP["completion"], 5)
    stored = studies.scores(standing)
    largest = max(abs(score) for (query, _), score in stored.items() if query == "lamp")
    assert asked.sequences == len({sequence for _, sequence in stored})
    assert len(asked.passages) == 5
    scores = [passage.influence_nats for passage in asked.passages]
    assert scores == sorted(scores, reverse=True)
    for passage in asked.passages:
        assert passage.influence_nats == pytest.approx(stored["lamp", passage.sequence_id], abs=1e-9 * largest)
        assert np.sum(passage.tokens.influence_nats) == pytest.approx(passage.influence_nats)
        parts = [d["influence_nats"] for d in passage.documents]
        assert sum(parts) == pytest.approx(passage.influence_nats)
        assert parts == sorted(parts, reverse=True)
    (told,) = studies.ask_sql(standing, "select log_probability_nats from queries where query_id = 'lamp'").rows()
    assert asked.log_probability_nats == pytest.approx(told[0])


def test_an_unknown_query_is_refused_with_the_nearest(standing):
    with pytest.raises(InputError, match="'lamp'"):
        strongest(studies.versions_of(standing, "published"), "lmap", 3)


@pytest.mark.slow
def test_what_came_after_training_is_left_out_unless_asked_for(tmp_path):
    study = studies.lay_out(
        tmp_path,
        model={"path": None, "train": {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, "epochs": 2}},
        sequences={"length": 32},
    )
    studies.compute(study)
    everything = "select trained_on, count(*) from {} group by all"
    for table in ("documents", "sequences"):
        assert [row[0] for row in studies.ask_sql(study, everything.format(table)).rows()] == [True]
    late = [{"text": LAMP["prompt"] + LAMP["completion"], "title": "Late"}, studies.COAST_ROWS[0]]
    studies.write_jsonl(tmp_path / "corpus" / "late.jsonl", late)
    assert "language_model" not in studies.compute(study)
    versions = studies.versions_of(study, "published")
    marks = studies.ask_sql(study, "select title, trained_on, count(*) from documents group by all")
    assert {row[:2] for row in marks.rows()} == {
        *((row["title"], True) for row in [*studies.COAST_ROWS, *studies.TRADES_ROWS]),
        ("Late", False),
    }
    for answer, more in (
        (strongest(versions, "lamp", 100), strongest(versions, "lamp", 100, unseen=True)),
        (
            ask(versions, LAMP["prompt"], LAMP["completion"], 100),
            ask(versions, LAMP["prompt"], LAMP["completion"], 100, unseen=True),
        ),
    ):
        assert (answer.left_out, more.left_out) == (1, 0)
        assert {p.trained_on for p in answer.passages} == {True}
        added = {p.sequence_id for p in more.passages} - {p.sequence_id for p in answer.passages}
        unseen = studies.ask_sql(study, "select sequence_id from sequences where not trained_on")["sequence_id"]
        assert added == set(unseen)
        assert added
    for macro in ("strongest('lamp', 100{})", "strongest_of_each(100{})"):
        seen, whole = (
            studies.ask_sql(study, f"from {macro.format(u)}")["sequence_id"] for u in ("", ", unseen := true")
        )
        assert set(whole) - set(seen) == set(unseen)
