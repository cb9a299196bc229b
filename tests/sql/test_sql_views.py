"""The views' and the cookbook's answers on the sample, worked out by hand."""

import inspect
import random
import re

import numpy as np
import pytest
from sample_rows import ENSEMBLE, rows_of
from scipy import stats

from influence_assets.storage.catalogue.statements import statements


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


def test_self_influence_is_summed_over_the_current_generations_parts(catalogue):
    rows = rows_of(catalogue, "from self_influence_by_document order by document_id")
    columns = ("shard_id", "document_id", "self_influence_nats", "nats_per_token", "tokens", "sequences")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("a.jsonl", "d1", 4.0, 4 / 6, 6, 1),
        ("a.jsonl", "d2", 3.5, 3.5 / 8, 8, 2),
        ("b.jsonl", "d3", 1.0, 1 / 6, 6, 1),
    ]


def test_strongest_names_the_documents_the_larger_part_first(catalogue):
    assert rows_of(catalogue, "select * exclude (shard_id) from strongest($query, $n)", {"query": "q1", "n": 2}) == [
        {
            "rank": 1,
            "influence_nats": 4.0,
            "sequence_id": 1,
            "documents": ["One", "d2"],
            "text": "Ada said while",
            "trained_on": True,
            "exceeds_what_remains": True,
        },
        {
            "rank": 2,
            "influence_nats": 1.0,
            "sequence_id": 3,
            "documents": ["Three"],
            "text": "if",
            "trained_on": True,
            "exceeds_what_remains": False,
        },
    ]
    last = rows_of(catalogue, "from strongest($query, $n)", {"query": "q2", "n": 3})[2]
    assert (last["sequence_id"], last["documents"]) == (1, ["d2", "One"])


def test_strongest_of_each_agrees_with_the_ranks_also_of_equal_scores(catalogue):
    chance = random.Random(2)
    catalogue.execute("delete from influence_scores").complete()
    catalogue.execute(
        "insert into sequences select range, 'a.jsonl', range, 6, 'x', true, 3 from range(10, 90)"
    ).complete()
    scores = {q: {s: chance.randrange(-3, 4) / 4 for s in range(10, 90)} for q in ("q1", "q2")}
    rows = [(q, s, 2, score, 6) for q, each in scores.items() for s, score in each.items()]
    rows += [("q1", s, 1, 9.0, 6) for s in range(10, 90)]  # of a generation that is not current
    catalogue.executemany("insert into influence_scores values (hash(?), ?, ?, ?, ?)", rows)
    expected = [
        (q, rank, score, s)
        for q, each in scores.items()
        for rank, (score, s) in enumerate(
            sorted(((v, s) for s, v in each.items()), key=lambda p: (-p[0], p[1]))[:25], 1
        )
    ]
    columns = "query_id, rank, influence_nats, sequence_id"
    assert catalogue.execute(f"select {columns} from strongest_of_each(25)").fetchall() == expected
    ranked = f"select {columns} from top_influences where rank <= $n order by all"
    assert catalogue.execute(ranked, {"n": 25}).fetchall() == expected
    one = "select 'q2', rank, influence_nats, sequence_id from strongest('q2', 25) order by rank"
    assert catalogue.execute(one).fetchall() == expected[25:]


def test_a_query_whose_name_begins_like_all_others_is_found_in_its_own_blocks(catalogue):
    """A block has 122,880 rows; DuckDB's statistics of texts would not tell these names apart."""
    catalogue.execute(
        "create temp table names as select range as n, 'question-of-the-day-' || range as name from range(6);"
        "insert into queries by name select * exclude (n, name) replace (name as query_id, hash(name) as query_key)"
        " from names, (from queries limit 1);"
        "delete from influence_scores; insert into influence_scores"
        " select hash(name), i, 2, i, 6 from names, range(130_000) each (i) order by all"
    ).complete()
    asked = "select max(influence_nats) from current_scores where query_id = 'question-of-the-day-3'"
    assert catalogue.execute(asked).fetchall() == [(129_999.0,)]
    plan = catalogue.execute(f"explain analyze {asked}").fetchall()[0][1]
    blocks = [tuple(map(int, found)) for found in re.findall(r"Row Groups Scanned: (\d+) / (\d+)", plan)]
    read, there = max(blocks, key=lambda found: found[1])
    assert there > 6
    assert read <= 3


def mark(catalogue):
    for name in ("mark_trained_documents", "mark_trained_sequences"):
        catalogue.execute(statements("changes")[name].sql).complete()
    return [
        dict(catalogue.execute(f"select {identity}, trained_on from {table}").fetchall())
        for table, identity in (("documents", "document_id"), ("sequences", "sequence_id"))
    ]


def test_what_came_after_training_is_marked_and_left_out_of_the_strongest(catalogue):
    assert mark(catalogue) == [{"d1": True, "d2": True, "d3": True}, {1: True, 2: True, 3: True}]
    catalogue.execute("delete from trained_documents where document_id = 'd2'").complete()
    assert mark(catalogue) == [{"d1": True, "d2": False, "d3": True}, {1: False, 2: False, 3: True}]
    seen, whole = "from strongest('q1', 3)", "from strongest('q1', 3, unseen := true)"
    assert [(row["sequence_id"], row["trained_on"]) for row in rows_of(catalogue, seen)] == [(3, True)]
    assert [row["sequence_id"] for row in rows_of(catalogue, whole)] == [1, 3, 2]
    assert [row["sequence_id"] for row in rows_of(catalogue, "from strongest_of_each(3)")] == [3, 3]
    assert len(rows_of(catalogue, "from strongest_of_each(3, unseen := true)")) == 6
    found = rows_of(catalogue, "select document_id, trained_on from influence_by_document where query_id = 'q1'")
    assert {row["document_id"]: row["trained_on"] for row in found} == {"d1": True, "d2": False, "d3": True}
    assert len(rows_of(catalogue, "from top_influences where not trained_on")) == 4


def test_of_a_model_that_is_brought_nothing_is_known(catalogue):
    catalogue.execute("delete from trained_documents").complete()
    assert mark(catalogue) == [{"d1": None, "d2": None, "d3": None}, {1: None, 2: None, 3: None}]
    assert [row["sequence_id"] for row in rows_of(catalogue, "from strongest('q1', 3)")] == [1, 3, 2]


def test_cautions_are_of_scores_that_cannot_be_and_of_narrow_fits(catalogue):
    (beyond,) = rows_of(catalogue, "from cautions")  # q1 can gain 1.5 nats, q2 has no positive score
    assert beyond["query_id"] == "q1"
    assert "+4 nats" in beyond["caution"]
    assert "gain 1.5 at most" in beyond["caution"]
    catalogue.execute("update modules set input_width = 1234, covariance_tokens = 1233").complete()
    _, narrow = rows_of(catalogue, "from cautions order by query_id nulls last")
    assert narrow["query_id"] is None
    assert "1,233 tokens, fewer than the 1,234 columns" in narrow["caution"]
    catalogue.execute("update modules set input_width = 4, output_width = 1234").complete()
    _, narrow = rows_of(catalogue, "from cautions order by query_id nulls last")
    assert "1,233 tokens, fewer than the 1,234 columns" in narrow["caution"]
    for has_factor, expected in (("null", 2), ("true", 2), ("false", 1)):  # null: a generation of an earlier release
        catalogue.execute(f"update modules set has_output_factor = {has_factor}").complete()
        assert len(rows_of(catalogue, "from cautions")) == expected
    catalogue.execute("update modules set has_output_factor = true, covariance_tokens = 1234").complete()
    catalogue.execute("update queries set log_probability_nats = -4").complete()
    assert rows_of(catalogue, "from cautions") == []


def test_normalised_scores(catalogue):
    found = rows_of(catalogue, "from normalised_scores order by query_id, sequence_id")
    assert [(row["query_id"], row["sequence_id"], row["nats_per_token"]) for row in found] == [
        ("q1", 1, 4 / 8), ("q1", 2, -1 / 6), ("q1", 3, 1 / 6), ("q2", 1, -3 / 8), ("q2", 2, -2 / 6), ("q2", 3, -1 / 6),
    ]  # fmt: skip
    assert [row["share_of_positive"] for row in found] == [0.8, 0.0, 0.2, None, None, None]
    assert [row["exceeds_what_remains"] for row in found] == [True, False, False, False, False, False]


def test_relative_influence(catalogue):
    """Self-influences are 5, 3 and 1 in the current generation, that of q1 is 4 and that of q2 is not stored."""
    found = rows_of(catalogue, "from relative_influence order by query_id, sequence_id")
    scores = np.array([[4.0, -1.0, 1.0], [-3.0, -2.0, -1.0]])
    expected = (scores / np.sqrt([5.0, 3.0, 1.0])).ravel()
    np.testing.assert_allclose([row["l_relatif"] for row in found], expected)
    np.testing.assert_allclose([row["cosine"] for row in found[:3]], expected[:3] / 2)
    assert [row["cosine"] for row in found[3:]] == [None] * 3
    catalogue.execute("update self_influence set self_influence_nats = 0 where sequence_id = 1").complete()
    (row,) = rows_of(catalogue, "from relative_influence where query_id = 'q1' and sequence_id = 1")
    assert (row["l_relatif"], row["cosine"]) == (None, None)


def test_a_documents_influence_is_that_of_its_own_parts(catalogue):
    found = catalogue.execute(
        "select document_id, influence_nats, strongest_part_nats, sequences from influence_by_document "
        "where query_id = 'q1' order by document_id"
    )
    # d1: 4.5 of sequence 1; d2: the other -0.5 and all of -1; d3: all of 1.
    assert found.fetchall() == [("d1", 4.5, 4.5, 1), ("d2", -1.5, -0.5, 2), ("d3", 1.0, 1.0, 1)]


def test_parts_are_of_the_current_generation_and_sum_to_its_scores(catalogue):
    parts = (
        "select query_id, sequence_id, sum(influence_nats) from current_scores_by_document group by all order by all"
    )
    scores = "select query_id, sequence_id, influence_nats from current_scores order by all"
    assert catalogue.execute(parts).fetchall() == catalogue.execute(scores).fetchall()


def test_documents_and_sources_add_up_to_the_scores(catalogue):
    for view in ("influence_by_document", "influence_by_source", "current_scores"):
        summed = catalogue.execute(f"select query_id, sum(influence_nats) from {view} group by all order by all")
        assert summed.fetchall() == [("q1", 4.0), ("q2", -6.0)], view


def test_a_document_without_source_counts_under_its_shard(catalogue):
    found = catalogue.execute(
        "select source, influence_nats, helping_nats, hurting_nats, documents from influence_by_source "
        "where query_id = 'q2' order by source"
    )
    # d1: -3.5 of sequence 1; d2: 0.5 of it and -2.
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
        "delete from influence_scores; insert into influence_scores select hash('q1'), range, 2, 1.0, 6 from range(250)"
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
    assert (first["asset"], first["partition"]) == ("influence_scores", "q.jsonl|a.jsonl")


def test_dependents_are_all_that_a_document_reaches(catalogue):
    found = rows_of(catalogue, "select * from dependents_of_document($document)", {"document": "d3"})
    assert [(row["depth"], row["asset"], row["partition"]) for row in found] == [
        (0, "documents", "b.jsonl"),
        (1, "token_sequences", "b.jsonl"),
        (2, "influence_scores", "q.jsonl|b.jsonl"),
        (3, "influence_details", "q.jsonl"),
    ]
    assert [(row["materialization_id"], row["rows"], row["bytes"]) for row in found][2] == (7, 1, 7)
    assert all(row["is_forgotten"] for row in found)
    # The generation was fitted on d1's shard, so that the other shard's scores depend on it as well.
    sql = "select materialization_id, depth, is_loaded from dependents_of_document('d1')"
    reached = {1: 0, 3: 1, 6: 2, 8: 2, 102: 2, 9: 3, 101: 3, 10: 4, 5: 5, 7: 6}
    assert set(catalogue.execute(sql).fetchall()) == {(number, d, number < 100) for number, d in reached.items()}
    # Eigenbases, curvature and what is asked of them alone hold no one's text, and stand when d1 is forgotten.
    forgotten = "select materialization_id from dependents_of_document('d1') where is_forgotten order by all"
    assert catalogue.execute(forgotten).fetchall() == [(1,), (3,), (6,), (8,), (9,), (102,)]
    assert catalogue.execute("select * from dependents_of_document('none')").fetchall() == []


def test_a_text_in_two_shards_reaches_what_either_does(catalogue):
    sql = "select * replace ('d3' as document_id, hash('d3') as document_key) from documents limit 1"
    catalogue.execute(f"insert into documents {sql}").complete()
    assert catalogue.execute("select count(*) from dependents_of_document('d3')").fetchall() == [(12,)]


def test_ancestry_leads_down_to_files_weights_and_code(catalogue):
    found = rows_of(catalogue, "select * from ancestry_of($id)", {"id": 6})
    assert [(row["depth"], row["materialization_id"]) for row in found] == [
        (0, 6),
        (1, 5),
        (1, 3),
        (2, 10),
        (2, 1),
        (2, 103),
        (3, 101),
        (4, 102),
    ]
    by_asset = {row["asset"]: row for row in found}
    assert by_asset["documents"]["path"] == "/corpus/a.jsonl"
    assert by_asset["documents"]["content_hash"] == "ha"
    assert by_asset["language_model"]["content_hash"] == "weights"
    assert (by_asset["eigenbases"]["code_version"], by_asset["eigenbases"]["run_id"]) == ("1", "run-101")
    assert {row["host"] for row in found} == {"host"}


def test_an_ancestor_without_a_trace_is_still_named(catalogue):
    catalogue.execute("delete from materializations where materialization_id = 102").complete()
    [lost] = rows_of(catalogue, "select * from ancestry_of(6) where asset = 'covariances'")
    assert (lost["partition"], lost["data_version"], lost["depth"]) == ("a.jsonl", "v102", 4)
    assert (lost["code_version"], lost["run_id"], lost["started_at"]) == (None, None, None)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/New_York"])
def test_costs_are_summed_by_days_of_utc_wherever_one_asks(catalogue, zone):
    catalogue.execute(f"set timezone = '{zone}'").complete()
    costs = {
        (asset, day.isoformat()): rest
        for asset, day, *rest in catalogue.execute("select * from cost_by_asset_and_day").fetchall()
    }
    catalogue.execute("reset timezone").complete()
    # Computed at half past eleven of one night, what has a number from 100 an hour later.
    assert costs["documents", "2026-01-02"] == [2, 3.0, 1.0, 20, 3, 2]
    assert costs["eigenbases", "2026-01-03"] == [1, 101.0, None, 1010, 101, 1]
    assert len(costs) == 9


def test_outdated_is_what_does_not_stand(catalogue):
    found = catalogue.execute("select asset, partition, state, cause from outdated_partitions order by all").fetchall()
    assert found == [
        ("curvature", None, "waiting", "documents are missing"),
        ("documents", "b.jsonl", "stale", "changed"),
        ("documents", "c.jsonl", "missing", "new"),
        ("documents", "d.jsonl", "missing", "new"),
    ]


class TestAgreementOfGenerations:
    def test_of_three_sequences(self, catalogue):
        """Ranks 3, 1, 2 against 3, 2, 1: 1 - 6·(0 + 1 + 1) / (3·8)."""
        [row] = rows_of(catalogue, "select * from generation_agreement")
        assert (row["query_id"], row["generation_id"], row["other_generation_id"]) == ("q1", 2, 1)
        assert (row["sequences"], row["top_twenty_overlap"]) == (3, 1.0)
        assert row["spearman"] == pytest.approx(0.5)
        assert row["pearson"] == pytest.approx(stats.pearsonr([4, -1, 1], [99, 98, 97]).statistic)

    def test_with_ties_and_with_sequences_that_one_of_them_lacks(self, catalogue):
        chance = random.Random(1)
        scores = {g: {s: chance.randrange(8) / 4 for s in range(100 * g, 100 * g + 160)} for g in (1, 2)}
        catalogue.execute("delete from influence_scores").complete()
        rows = [("q1", s, g, score, 6) for g, each in scores.items() for s, score in each.items()]
        catalogue.executemany("insert into influence_scores values (hash(?), ?, ?, ?, ?)", rows)
        both = sorted(scores[1].keys() & scores[2].keys())
        one, other = ([scores[g][s] for s in both] for g in (2, 1))
        tops = [set(sorted(both, key=lambda s, each=scores[g]: (-each[s], s))[:20]) for g in (1, 2)]
        [row] = rows_of(catalogue, "select * from generation_agreement")
        assert row["sequences"] == len(both) == 60
        assert row["spearman"] == pytest.approx(stats.spearmanr(one, other).statistic)
        assert row["pearson"] == pytest.approx(stats.pearsonr(one, other).statistic)
        assert row["top_twenty_overlap"] == len(tops[0] & tops[1]) / 20

    def test_of_equal_or_broken_scores_there_is_no_correlation(self, catalogue):
        catalogue.execute("update influence_scores set influence_nats = 1 where generation_id = 1").complete()
        catalogue.execute("update influence_scores set influence_nats = 'inf' where sequence_id = 3").complete()
        [row] = rows_of(catalogue, "select * from generation_agreement")
        assert (row["sequences"], row["spearman"], row["pearson"]) == (2, None, None)

    def test_a_filter_reaches_the_scores_before_they_are_joined(self, catalogue):
        plan = catalogue.execute("explain select * from generation_agreement where query_id = 'q1'").fetchall()[0][1]
        assert "query_id = 'q1'" in plan[plan.rindex("Window") :]


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
        assert [(row["document_id"], row["influence_nats"]) for row in documents] == [("d1", 4.5), ("d3", 1.0)]
        licences = ask(catalogue, "licences_behind_an_answer", query_id="q1")
        assert [(row["licence"], row["author"], row["influence_nats"]) for row in licences] == [
            ("CC-BY", "Ann", 4.5),
            (None, None, 1.0),
            ("MIT", "Bob", -1.5),
        ]

    def test_groups_that_were_left_out(self, catalogue):
        groups = ask(catalogue, "groups_behind_an_answer", query_id="q1")
        assert [(row["method"], row["group_name"], row["score"], row["is_beyond_chance"]) for row in groups] == [
            ("data_shapley", "wiki", 5.0, None),
            ("leave_one_out", "CC-BY", 3.0, True),
            ("leave_one_out", "MIT", -0.5, False),
        ]

    def test_documents_whose_sign_holds_over_members(self, catalogue):
        catalogue.execute(ENSEMBLE).complete()
        documents = ask(catalogue, "certain_documents", query_id="q1", count=5)
        assert [(row["document_id"], row["influence_nats"]) for row in documents] == [("d1", 4.5)]
        assert 0 < documents[0]["low_nats"] < 4.5 < documents[0]["high_nats"]

    def test_sources_of_a_query_set(self, catalogue):
        sources = ask(catalogue, "sources_by_query_set", query_set_id="q.jsonl")
        assert [(row["source"], row["mean_influence_nats"], row["queries"]) for row in sources] == [
            ("b.jsonl", 0.0, 2),
            ("wiki", -1.0, 2),
        ]

    def test_answers_of_a_document(self, catalogue):
        answers = ask(catalogue, "answers_of_a_document", document_id="d1", count=5)
        assert [(row["query_id"], row["influence_nats"]) for row in answers] == [("q1", 4.5), ("q2", -3.5)]

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

    def test_blast_radius_and_ancestry(self, catalogue):
        radius = ask(catalogue, "blast_radius_of_a_document", document_id="d3")
        assert [(row["depth"], row["materialization_id"]) for row in radius] == [(0, 2), (1, 4), (2, 7), (3, 9)]
        ancestry = ask(catalogue, "ancestry_of_a_score", query_id="q1", sequence_id=3)
        assert [row["materialization_id"] for row in ancestry][:3] == [7, 5, 4]
        assert {row["path"] for row in ancestry} == {None, "/corpus/a.jsonl", "/corpus/b.jsonl"}
        assert ask(catalogue, "ancestry_of_a_score", query_id="q1", sequence_id=77) == []

    def test_cost_of_each_day(self, catalogue):
        costs = ask(catalogue, "cost_of_each_day")
        assert [(row["asset"], row["seconds"]) for row in costs][:2] == [("language_model", 103), ("covariances", 102)]
        assert [row["day"].day for row in costs] == [3] * 3 + [2] * 6

    def test_what_is_outdated(self, catalogue):
        outdated = ask(catalogue, "what_is_outdated")
        assert [tuple(row.values()) for row in outdated] == [
            ("curvature", "waiting", "documents are missing", 1, None),
            ("documents", "missing", "new", 2, "c.jsonl"),
            ("documents", "stale", "changed", 1, "b.jsonl"),
        ]

    def test_generations_compared(self, catalogue):
        [row] = ask(catalogue, "generations_compared")
        assert (row["query_id"], row["prompt"], row["sequences"]) == ("q1", "p1", 3)

    def test_withdrawn_documents(self, catalogue):
        withdrawn = ask(catalogue, "withdrawn_documents")
        assert [(row["document_id"], row["reason"]) for row in withdrawn] == [
            ("d1", "its source file vanished"),
            ("d4", "asked for"),
        ]

    def test_drift_of_layers(self, catalogue):
        drift = ask(catalogue, "drift_of_layers")
        assert [(row["measure"], row["is_past_threshold"]) for row in drift] == [
            ("eigenvalues", False),  # without a threshold
            ("A", True),
            ("S", False),
        ]

    def test_documents_with_self_influence(self, catalogue):
        rows = ask(catalogue, "documents_with_self_influence", count=2, fewest_tokens=1)
        # d1 has 4 nats over 6 tokens, d2 has 0.5 + 3 over 8, d3 has 1 over 6.
        assert [(r["document_id"], r["nats_per_token"]) for r in rows] == [("d1", 4 / 6), ("d2", 3.5 / 8)]
        assert ask(catalogue, "documents_with_self_influence", count=9, fewest_tokens=7)[0]["document_id"] == "d2"

    def test_every_question_is_tried(self):
        tried = re.findall(r'ask\(catalogue, "(\w+)"', inspect.getsource(TestCookbook))
        assert set(tried) == statements("cookbook").keys()
