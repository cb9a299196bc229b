"""The views' and the cookbook's answers on the sample, worked out by hand."""

import inspect
import re

import pytest
from sample_rows import build, rows_of

from influence_assets.storage.statements import statements


@pytest.fixture(scope="module")
def sample():
    with build() as connection:
        yield connection


@pytest.fixture
def catalogue(sample):
    """The sample, as it was again after each test."""
    sample.begin()
    yield sample
    sample.rollback()


def ask(catalogue, name, **values):
    return rows_of(catalogue, statements("cookbook")[name].sql, values)


def test_top_influences_rank_both_ways_in_the_current_generation(catalogue):
    top = catalogue.execute(
        "select sequence_id, rank, rank_lowest, influence_nats, text from top_influences "
        "where query_id = 'q1' order by rank"
    )
    assert top.fetchall() == [(1, 1, 3, 4.0, "Ada said while"), (3, 2, 2, 1.0, "if"), (2, 3, 1, -1.0, "for")]
    assert catalogue.execute("select count(*) from top_influences").fetchall() == [(6,)]


def test_ranks_of_equal_scores_are_distinct(catalogue):
    catalogue.execute("update influence_scores set influence_nats = 1").complete()
    ranks = catalogue.execute("select sequence_id, rank, rank_lowest from top_influences where query_id = 'q1'")
    assert sorted(ranks.fetchall()) == [(1, 1, 3), (2, 2, 2), (3, 3, 1)]


def test_strongest_names_the_documents_the_larger_share_first(catalogue):
    assert rows_of(catalogue, "select * exclude (shard_id) from strongest($query, $n)", {"query": "q1", "n": 2}) == [
        {"rank": 1, "influence_nats": 4.0, "sequence_id": 1, "documents": ["One", "d2"], "text": "Ada said while"},
        {"rank": 2, "influence_nats": 1.0, "sequence_id": 3, "documents": ["Three"], "text": "if"},
    ]


def test_a_documents_influence_is_its_share_of_its_sequences(catalogue):
    found = catalogue.execute(
        "select document_id, influence_nats, strongest_sequence_nats, sequences from influence_by_document "
        "where query_id = 'q1' order by document_id"
    )
    # d1: 6/8 of 4; d2: 2/8 of 4 and all of -1; d3: all of 1.
    assert found.fetchall() == [("d1", 3.0, 4.0, 1), ("d2", 0.0, 4.0, 2), ("d3", 1.0, 1.0, 1)]


def test_documents_and_sources_add_up_to_the_scores(catalogue):
    for view in ("influence_by_document", "influence_by_source", "current_scores"):
        summed = catalogue.execute(f"select query_id, sum(influence_nats) from {view} group by all order by all")
        assert summed.fetchall() == [("q1", 4.0), ("q2", -6.0)], view


def test_a_document_without_source_counts_under_its_shard(catalogue):
    found = catalogue.execute(
        "select source, influence_nats, helping_nats, hurting_nats, documents from influence_by_source "
        "where query_id = 'q2' order by source"
    )
    # d1: 6/8 of -3; d2: 2/8 of -3 and -2.
    assert found.fetchall() == [("b.jsonl", -1.0, 0.0, -1.0, 1), ("wiki", -5.0, 0.0, -5.0, 2)]


def test_concentration_is_of_the_positive_part(catalogue):
    assert rows_of(catalogue, "select * from influence_concentration order by query_id") == [
        {
            "query_id": "q1",
            "sequences": 3,
            "positive_influence_nats": 5.0,
            "top_percent_share": 0.8,
            "top_ten_share": 1.0,
            "sequences_making_half": 1,
        },
        {
            "query_id": "q2",
            "sequences": 3,
            "positive_influence_nats": 0.0,
            "top_percent_share": None,
            "top_ten_share": None,
            "sequences_making_half": None,
        },
    ]


def test_concentration_of_many_equal_scores(catalogue):
    catalogue.execute(
        "delete from influence_scores; insert into influence_scores select 'q1', range, 2, 1.0, 6 from range(250)"
    ).complete()
    [row] = rows_of(catalogue, "select * from influence_concentration")
    assert row["top_percent_share"] == 3 / 250  # a hundredth of 250, rounded up
    assert row["top_ten_share"] == 10 / 250
    assert row["sequences_making_half"] == 125


def test_every_current_score_leads_to_all_its_documents(catalogue):
    lineage = rows_of(catalogue, "select * from score_lineage where query_id = 'q1' order by sequence_id, document_id")
    assert [(row["sequence_id"], row["document_id"], row["document_tokens"]) for row in lineage] == [
        (1, "d1", 6),
        (1, "d2", 2),
        (2, "d2", 6),
        (3, "d3", 6),
    ]
    first = lineage[0]
    assert first["path"] == "/corpus/a.jsonl"
    assert first["external_id"] == "x1"
    assert (first["run_id"], first["code_version"], first["data_version"]) == ("run-6", "1", "v6")
    assert (first["generation_id"], first["weights_hash"]) == (2, "w2")
    assert (first["asset"], first["partition"]) == ("influence_scores", "a.jsonl|q.jsonl")


def test_a_filter_reaches_the_scores_before_they_are_ranked(catalogue):
    """Otherwise twenty rows of one query would cost a sort of every query's."""
    plan = catalogue.execute("explain select * from top_influences where query_id = 'q1' and rank <= 20").fetchall()[0][
        1
    ]
    assert "Filters: query_id = 'q1'" in plan[plan.index("Window") :]


class TestCookbook:
    def test_strongest_and_weakest_passages(self, catalogue):
        strongest = ask(catalogue, "strongest_passages", query_id="q1", count=1)
        assert [(row["sequence_id"], row["documents"]) for row in strongest] == [(1, ["One", "d2"])]
        against = ask(catalogue, "passages_against", query_id="q1", count=2)
        assert [(row["rank_lowest"], row["sequence_id"]) for row in against] == [(1, 2), (2, 3)]

    def test_documents_and_licences(self, catalogue):
        documents = ask(catalogue, "documents_behind_an_answer", query_id="q1", count=2)
        assert [(row["document_id"], row["influence_nats"]) for row in documents] == [("d1", 3.0), ("d3", 1.0)]
        licences = ask(catalogue, "licences_behind_an_answer", query_id="q1")
        assert [(row["licence"], row["author"], row["influence_nats"]) for row in licences] == [
            ("CC-BY", "Ann", 3.0),
            (None, None, 1.0),
            ("MIT", "Bob", 0.0),
        ]

    def test_sources_of_a_query_set(self, catalogue):
        sources = ask(catalogue, "sources_by_query_set", query_set_id="q.jsonl")
        assert [(row["source"], row["mean_influence_nats"], row["queries"]) for row in sources] == [
            ("b.jsonl", 0.0, 2),
            ("wiki", -1.0, 2),
        ]

    def test_answers_of_a_document(self, catalogue):
        answers = ask(catalogue, "answers_of_a_document", document_id="d1", count=5)
        assert [(row["query_id"], row["influence_nats"]) for row in answers] == [("q1", 3.0), ("q2", -2.25)]

    def test_where_a_phrase_matters(self, catalogue):
        found = ask(catalogue, "where_a_phrase_matters", phrase="ada", count=5)
        assert [(row["query_id"], row["influence_nats"]) for row in found] == [("q1", 4.0), ("q2", -3.0)]
        assert ask(catalogue, "where_a_phrase_matters", phrase="%", count=5) == []

    def test_layers_and_tokens_of_a_passage(self, catalogue):
        layers = ask(catalogue, "layers_of_a_passage", query_id="q1", sequence_id=1)
        assert [tuple(row.values()) for row in layers] == [("h.0.mlp", 6.0, 0.75), ("h.1.mlp", -2.0, -0.25)]
        tokens = ask(catalogue, "tokens_of_a_passage", query_id="q1", sequence_id=1)
        assert [tuple(row.values()) for row in tokens] == [(0, "Ada", " said", 1.0), (1, " said", None, 3.0)]

    def test_passages_behind_many_answers(self, catalogue):
        found = ask(catalogue, "passages_behind_many_answers", count=2)
        assert [(row["sequence_id"], row["queries"], row["mean_influence_nats"]) for row in found] == [
            (1, 2, 0.5),
            (3, 2, 0.0),
        ]

    def test_concentration_of_answers(self, catalogue):
        found = ask(catalogue, "concentration_of_answers", count=5)
        assert [row["query_id"] for row in found] == ["q1", "q2"]

    def test_lineage_of_a_score(self, catalogue):
        found = ask(catalogue, "lineage_of_a_score", query_id="q1", sequence_id=1)
        assert [(row["document_id"], row["run_id"], row["weights_hash"]) for row in found] == [
            ("d1", "run-6", "w2"),
            ("d2", "run-6", "w2"),
        ]

    def test_every_question_is_tried(self):
        tried = re.findall(r'ask\(catalogue, "(\w+)"', inspect.getsource(TestCookbook))
        assert set(tried) == statements("cookbook").keys()
