"""Noise, thresholds and calibrated scores, against sorted lists and medians in numpy."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import build, rows_of
from scipy import stats

from influence_assets.analysis.noise import noise_of
from influence_assets.storage.catalogue.statements import statements

FIRST_ID = 1000


def gaussian(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count)


KINDS = {
    "gaussian": gaussian(400),
    "an odd number of scores": gaussian(401),
    "no median of zero": gaussian(200) + 3.0,
    "negative only": -np.abs(gaussian(200)),
    "all below a negative median's noise": gaussian(200) / 10 - 5,
    "heavy tails": np.random.default_rng(1).standard_cauchy(500),
    "a few that stand out": np.concatenate([gaussian(300), [8.0, 9.0, -9.0]]),
    "ties": np.round(gaussian(300) * 2) / 2,
    "all equal": np.full(50, 0.25),
    "all zero": np.zeros(50),
    "most of them zero": np.concatenate([np.zeros(60), np.abs(gaussian(40)), -np.abs(gaussian(10))]),
    "half of them zero": np.concatenate([np.zeros(30), np.arange(1, 31)]),
    "twenty": gaussian(20),
    "nineteen": gaussian(19),
    "one": np.array([2.0]),
    "two": np.array([-1.0, 1.0]),
    "very small": gaussian(100) * 1e-200,
    "very large": gaussian(100) * 1e200,
    "some not finite": np.concatenate([gaussian(30), [np.nan, np.inf, -np.inf]]),
    "too few finite": np.concatenate([gaussian(19), [np.nan] * 30]),
    "none finite": np.array([np.nan, np.inf]),
}


@pytest.fixture(scope="module")
def sample():
    with build() as connection:
        connection.execute("delete from part_scores; delete from sequence_documents").complete()
        yield connection


@pytest.fixture
def catalogue(sample):
    """The sample without documents in its sequences, as it was again after each test."""
    sample.begin()
    yield sample
    sample.rollback()


def expected(scores):
    """n, median, σ, threshold and how many stand above it."""
    finite = sorted(score for score in scores if np.isfinite(score))
    n = len(finite)
    median = np.median(finite) if finite else None
    if n < 20:
        return [n, median, None, None, None]
    sigma = np.median([abs(score - median) for score in finite]) / 0.6745
    threshold = max(median, 0) + sigma * np.sqrt(2 * np.log(n))
    return [n, median, sigma, threshold, sum(score > threshold for score in finite)]


def shrunk(score, sigma, c=10):
    if sigma is None or not np.isfinite(score):
        return None
    S, σ = np.longdouble(score), np.longdouble(sigma)  # whose squares neither vanish nor overflow
    return float(S**2 / (S + c * σ)) if score > 0 else 0


def put(connection, query, scores, generation=2):
    rows = [[query, FIRST_ID + place, generation, float(score), 6] for place, score in enumerate(scores)]
    connection.executemany("insert into influence_scores values (hash(?), ?, ?, ?, ?)", rows)


def near(values):
    """Equal to rounding, also where they are tiny."""
    return [value if value is None else pytest.approx(value, rel=1e-12, abs=0, nan_ok=True) for value in values]


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_a_query(catalogue, kind):
    catalogue.execute("delete from influence_scores").complete()
    put(catalogue, "q1", KINDS[kind])
    put(catalogue, "q2", [1.0, 2.0])
    [row] = rows_of(catalogue, "from query_noise where query_id = 'q1'")
    assert (row.pop("query_id"), row.pop("generation_id")) == ("q1", 2)
    assert list(row.values()) == near(expected(KINDS[kind]))
    sql = "from scores_with_noise where query_id = 'q1' order by sequence_id"
    scores = rows_of(catalogue, sql)
    _, _, sigma, threshold, above = expected(KINDS[kind])
    assert [row["influence_nats"] for row in scores] == pytest.approx(KINDS[kind], nan_ok=True)
    assert [row["calibrated_nats"] for row in scores if np.isfinite(row["influence_nats"])] == near(
        shrunk(score, sigma) for score in KINDS[kind] if np.isfinite(score)
    )
    marks = [row["is_above_noise"] for row in scores]
    assert sum(filter(None, marks)) == (above or 0)
    assert all(mark is None for mark in marks if threshold is None and mark is not False)


@given(
    scores=st.lists(
        st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0]), min_size=1, max_size=60
    ),
    c=st.floats(0, 100),
)
def test_any_scores(sample, scores, c):
    sample.begin()
    sample.execute("delete from influence_scores").complete()
    put(sample, "q1", scores)
    [found] = sample.execute("select * exclude (query_id, generation_id) from query_noise").fetchall()
    sample.rollback()
    oracle = expected(scores)
    assert list(found[:4]) == [value if value is None else pytest.approx(value, rel=1e-9) for value in oracle[:4]]
    # A score at the threshold itself may fall on either side by rounding.
    if oracle[3] is None or all(abs(score - oracle[3]) > 1e-9 * max(abs(oracle[3]), 1e-6) for score in scores):
        assert found[4] == oracle[4]
    values = {"scores": scores, "sigma": found[2], "c": c}
    [[calibrated]] = sample.execute(
        "select [calibrated(score, $sigma::double, c := $c::double) for score in $scores::double[]]", values
    ).fetchall()
    assert calibrated == [
        value if value is None else pytest.approx(value, rel=1e-9)
        for value in (shrunk(score, found[2], c) for score in scores)
    ]


def test_the_noise_of_a_new_question_is_computed_alike(catalogue):
    for scores in KINDS.values():
        catalogue.execute("delete from influence_scores").complete()
        put(catalogue, "q1", scores)
        noise = noise_of(scores)
        [row] = catalogue.execute("select * exclude (query_id, generation_id) from query_noise").fetchall()
        assert [noise.scores, noise.median, noise.sigma, noise.threshold, noise.above] == near(row)


def test_without_noise_the_calibrated_score_is_the_positive_part(catalogue):
    scores = KINDS["most of them zero"]
    put(catalogue, "q1", scores)
    [[sigma, above]] = catalogue.execute(
        "select sigma_nats, sequences_above from query_noise where query_id = 'q1'"
    ).fetchall()
    assert (sigma, above) == (0, 40 + 2)  # those of the sample are 4, -1 and 1
    sql = "select influence_nats, calibrated_nats from scores_with_noise where query_id = 'q1'"
    assert all(calibrated == max(score, 0) for score, calibrated in catalogue.execute(sql).fetchall())


def test_another_generation_is_no_part_of_it(catalogue):
    before = rows_of(catalogue, "from query_noise order by query_id")
    put(catalogue, "q1", gaussian(100), generation=1)
    assert rows_of(catalogue, "from query_noise order by query_id") == before
    put(catalogue, "q1", gaussian(100), generation=2)
    catalogue.execute("update generations set is_current = generation_id = 1").complete()
    [row] = rows_of(catalogue, "from query_noise where query_id = 'q1'")
    assert (row["generation_id"], row["sequences"]) == (1, 103)  # q2 has no scores in it
    assert row["sigma_nats"] == pytest.approx(expected([99, 98, 97, *gaussian(100)])[2])


def test_scores_that_are_gone_are_no_part_of_it(catalogue):
    """Documents that are withdrawn take the scores of their sequences with them."""
    catalogue.execute("delete from influence_scores").complete()
    scores = gaussian(60)
    put(catalogue, "q1", scores)
    catalogue.execute("delete from influence_scores where sequence_id < $n", {"n": FIRST_ID + 15}).complete()
    [row] = rows_of(catalogue, "select * exclude (query_id, generation_id) from query_noise")
    assert list(row.values()) == near(expected(scores[15:]))
    catalogue.execute("delete from influence_scores").complete()
    assert rows_of(catalogue, "from query_noise") == []


def test_each_query_has_its_own(catalogue):
    catalogue.execute("delete from influence_scores").complete()
    drawn = {"q1": gaussian(50, 1), "q2": 100 * gaussian(70, 2)}
    for query, scores in drawn.items():
        put(catalogue, query, scores)
    found = {row.pop("query_id"): list(row.values())[1:] for row in rows_of(catalogue, "from query_noise")}
    assert found == {query: near(expected(scores)) for query, scores in drawn.items()}


def test_the_strongest_stand_beside_it(catalogue):
    catalogue.execute(
        "insert into sequences select range, 'a.jsonl', range, 6, 'x', range % 2 = 0, 3 from range(1000, 1100)"
    ).complete()
    scores = np.concatenate([gaussian(98), [9.0, 10.0]])
    put(catalogue, "q1", scores)
    _, _, sigma, threshold, _ = expected([4.0, -1.0, 1.0, *scores])
    for unseen in (False, True):
        call = f"('q1', 5, unseen := {unseen})"
        plain, noted = (rows_of(catalogue, f"from {macro}{call}") for macro in ("strongest", "strongest_with_noise"))
        added = [[row.pop(name) for name in ("calibrated_nats", "sigma_nats", "is_above_noise")] for row in noted]
        assert noted == plain
        assert added == [
            [pytest.approx(shrunk(score, sigma)), pytest.approx(sigma), score > threshold]
            for score in (row["influence_nats"] for row in plain)
        ]
        assert {True, False} == {mark for *_, mark in added}
    assert rows_of(catalogue, "from strongest_with_noise('none', 5)") == []


def test_parts_have_a_noise_of_their_own(catalogue):
    """The scores of sequences of one document are those of its part; sequences of two have two others."""
    catalogue.execute("delete from influence_scores").complete()
    whole = gaussian(40)
    put(catalogue, "q1", whole)
    rows = [[FIRST_ID + place, f"d{place}"] for place in range(30)]
    rows += [[FIRST_ID + place, f"{half}{place}"] for place in range(30, 40) for half in "ab"]
    catalogue.executemany("insert into sequence_documents values (?1, ?2, hash(?2), 0, 1, 0, 1, 3)", rows)
    parts = [[number, name, 3.0 * score] for (number, name), score in zip(rows[30:], gaussian(20, 5), strict=True)]
    catalogue.executemany("insert into part_scores values (hash('q1'), ?1, hash(?2), 2, ?3, 6)", parts)
    scores = [*whole[:30], *(score for *_, score in parts)]
    [row] = rows_of(catalogue, "select * exclude (query_id, generation_id) from query_noise_by_document")
    assert list(row.values()) == near(expected(scores))
    found = rows_of(catalogue, "from scores_with_noise_by_document")
    sigma, threshold = expected(scores)[2:4]
    assert sorted(row["influence_nats"] for row in found) == sorted(scores)
    for row in found:
        assert row["calibrated_nats"] == pytest.approx(shrunk(row["influence_nats"], sigma))
        assert row["is_above_noise"] == (row["influence_nats"] > threshold)


def test_methods_have_a_noise_of_their_own(catalogue):
    catalogue.execute("delete from method_scores").complete()
    drawn = {"one": gaussian(50), "other": 7 * gaussian(60, 1)}
    for method, scores in drawn.items():
        rows = [[FIRST_ID + place, method, float(score)] for place, score in enumerate(scores)]
        catalogue.executemany("insert into method_scores values ('q1', ?, 2, ?, null, ?, 6)", rows)
    catalogue.execute("insert into method_scores select * replace (1 as generation_id) from method_scores").complete()
    found = {row.pop("method"): list(row.values())[2:] for row in rows_of(catalogue, "from query_noise_by_method")}
    assert found == {method: near(expected(scores)) for method, scores in drawn.items()}


def test_the_cookbook_says_what_is_noise(catalogue):
    catalogue.execute(
        "insert into sequences select range, 'a.jsonl', range, 6, 'a lamp', true, 3 from range(1000, 1050)"
    ).complete()
    put(catalogue, "q1", [*gaussian(49), 9.0])
    sigma = pytest.approx(expected([4.0, -1.0, 1.0, *gaussian(49), 9.0])[2])
    ask = {name: statements("cookbook")[name].sql for name in statements("cookbook")}
    bound = {"query_id": "q1", "count": 3}
    found = rows_of(catalogue, ask["strongest_passages"], bound)
    assert [row["influence_nats"] for row in found[:2]] == [9.0, 4.0]
    assert [row["is_above_noise"] for row in found] == [True, True, False]
    against = rows_of(catalogue, ask["passages_against"], bound)
    assert [row["sigma_nats"] for row in against] == [sigma] * 3
    assert all(row["influence_nats"] < 0 for row in against)
    [row] = rows_of(catalogue, ask["where_a_phrase_matters"], {"phrase": "LAMP", "count": 1})
    assert (row["influence_nats"], row["is_above_noise"], row["sigma_nats"]) == (9.0, True, sigma)


def test_documents_are_summed_with_their_noise_shrunk(catalogue):
    rows = [[FIRST_ID + place, "d1" if place < 2 else "d2"] for place in range(40)]
    catalogue.executemany("insert into sequences values (?, 'a.jsonl', 5, 6, 'x', true, 3)", [row[:1] for row in rows])
    catalogue.executemany("insert into sequence_documents values (?1, ?2, hash(?2), 0, 1, 0, 1, 3)", rows)
    scores = [6.0, 7.0, *gaussian(38)]
    catalogue.execute("delete from influence_scores").complete()
    put(catalogue, "q1", scores)
    sigma = expected(scores)[2]
    found = rows_of(catalogue, statements("cookbook")["documents_behind_an_answer"].sql, {"query_id": "q1", "count": 9})
    summed = [
        {
            "document_id": document,
            "influence_nats": pytest.approx(sum(of)),
            "calibrated_nats": pytest.approx(sum(shrunk(score, sigma) for score in of)),
            "sequences": len(of),
            "sequences_above_noise": above,
        }
        for document, of, above in (("d1", scores[:2], 2), ("d2", scores[2:], 0))
    ]
    assert [{name: row[name] for name in summed[0]} for row in found] == summed


@pytest.mark.parametrize("sql", ["from query_noise where query_id = $query", "from strongest_with_noise($query, 20)"])
def test_the_noise_of_one_query_is_read_from_its_own_blocks(catalogue, sql):
    """A block has 122,880 rows; what two parts of a query share, DuckDB may compute whole before it filters."""
    catalogue.execute(
        "create temp table names as select range as n, 'question-' || range as name from range(6);"
        "insert into queries by name select * exclude (n, name) replace (name as query_id, hash(name) as query_key)"
        " from names, (from queries limit 1);"
        "delete from influence_scores; insert into influence_scores"
        " select hash(name), i, 2, i, 6 from names, range(130_000) each (i) order by all"
    ).complete()
    plan = catalogue.execute(f"explain analyze {sql}", {"query": "question-3"}).fetchall()[0][1]
    blocks = [tuple(map(int, found)) for found in re.findall(r"Row Groups Scanned: (\d+) / (\d+)", plan)]
    of_scores = [read for read, there in blocks if there > 6]
    assert of_scores
    assert max(of_scores) <= 3


@pytest.mark.parametrize("n", [20, 100, 1367, 10**6, 10**9])
def test_fewer_than_one_gaussian_score_is_expected_above(n):
    [[threshold]] = build().execute("select noise_threshold(0, 1, ?)", [n]).fetchall()
    assert n * stats.norm.sf(threshold) < 1 / np.sqrt(4 * np.pi * np.log(n)) < 1
    assert threshold == pytest.approx(np.sqrt(2 * np.log(n)))


def test_of_noise_alone_hardly_anything_stands_above():
    above = [noise_of(gaussian(1367, seed)).above for seed in range(300)]
    assert np.mean(above) < 0.2  # 1 / √(4π ln n) is 0.105, and σ is an estimate


def test_views_use_the_constant_that_was_fitted(catalogue):
    catalogue.execute("delete from fitted_calibration").complete()
    put(catalogue, "q1", np.concatenate([gaussian(98), [9.0, 10.0]]))
    strongest = "select calibrated_nats, influence_nats, sigma_nats from strongest_with_noise('q1', 5)"
    by_score = "select calibrated_nats, influence_nats, sigma_nats from scores_with_noise where query_id = 'q1'"
    default = {"c": 10.0, "is_fitted": False, "queries": None}
    for row, c in ((default, 10.0), ({"c": 3.5, "is_fitted": True, "queries": 40}, 3.5)):
        if row["is_fitted"]:
            catalogue.execute("insert into fitted_calibration values (3.5, 40, 64, 13)").complete()
        assert rows_of(catalogue, "from calibration") == [row]
        for sql in (strongest, by_score):
            for found in rows_of(catalogue, sql):
                score, sigma = found["influence_nats"], found["sigma_nats"]
                assert found["calibrated_nats"] == pytest.approx(score**2 / (score + c * sigma) if score > 0 else 0)
