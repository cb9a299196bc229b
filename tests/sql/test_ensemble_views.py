"""Means and intervals over an ensemble's members, against scipy, and how often they hold what they should."""

import re

import numpy as np
import pytest
from sample_rows import ENSEMBLE, rows_of
from scipy import stats

REPETITIONS = 100
MEMBERS = 4


def expected(scores):
    """The mean, its standard error and the interval, as scipy has them; and whether that leaves out 0."""
    mean, error = np.mean(scores), stats.sem(scores)
    low, high = stats.t.interval(0.95, len(scores) - 1, loc=mean, scale=error) if error else (mean, mean)
    return {
        "members": len(scores),
        "influence_nats": pytest.approx(mean, rel=1e-12),
        "standard_error_nats": pytest.approx(error, rel=1e-12),
        "low_nats": pytest.approx(low, rel=1e-9),
        "high_nats": pytest.approx(high, rel=1e-9),
        "is_certain": not low <= 0 <= high,
    }


def test_quantiles_are_those_of_students_t(sample):
    """Exactly up to 30 degrees of freedom, and by the expansion beyond."""
    degrees = [*range(1, 200), 1_000, 1_000_000]
    rows = rows_of(sample, "select critical_t(unnest($degrees::bigint[])) as t", {"degrees": degrees})
    found = np.array([row["t"] for row in rows])
    exact = stats.t.ppf(0.975, degrees)
    assert found[:30] == pytest.approx(exact[:30], rel=1e-9)
    assert found == pytest.approx(exact, rel=1e-7)


def test_without_further_members_there_is_no_ensemble(catalogue):
    for view in ("ensemble_scores", "ensemble_by_document", "ensemble_self_influence"):
        assert rows_of(catalogue, f"from {view}") == []


def test_scores_are_averaged_over_the_members_that_are_current(catalogue):
    catalogue.execute(ENSEMBLE).complete()
    rows = rows_of(catalogue, "from ensemble_scores order by sequence_id")
    assert rows == [
        {"query_id": "q1", "sequence_id": 1, **expected([4.0, 5.0, 4.5])},
        # A member has not scored sequence 2. Sequence 3's scores differ in sign.
        {"query_id": "q1", "sequence_id": 3, **expected([1.0, -3.0, 2.0])},
    ]
    assert [row["is_certain"] for row in rows] == [True, False]
    assert rows_of(catalogue, "select * from current_scores where generation_id <> 2") == []


def test_documents_are_summed_before_the_members_are_compared(catalogue):
    catalogue.execute(ENSEMBLE).complete()
    columns = ", ".join(("query_id", "document_id", "sequences", *expected([1.0, 2.0])))
    rows = rows_of(catalogue, f"select {columns} from ensemble_by_document order by document_id")
    assert rows == [
        {"query_id": "q1", "document_id": "d1", "sequences": 1, **expected([4.5, 4.0, 5.0])},
        {"query_id": "q1", "document_id": "d3", "sequences": 1, **expected([1.0, -3.0, 2.0])},
    ], "of d2's second sequence, a member's score is missing"
    catalogue.execute("insert into influence_scores values (hash('q1'), 2, 12, 0.5, 6)").complete()
    rows = rows_of(catalogue, f"select {columns} from ensemble_by_document where document_id = 'd2'")
    assert rows == [{"query_id": "q1", "document_id": "d2", "sequences": 2, **expected([-1.5, 2.0, 0.0])}]


def test_scores_that_are_not_finite_are_left_out(catalogue):
    catalogue.execute(ENSEMBLE).complete()
    catalogue.execute("update influence_scores set influence_nats = 'nan' where generation_id = 11").complete()
    catalogue.execute("update part_scores set influence_nats = 'inf' where generation_id = 11").complete()
    for view in ("ensemble_scores", "ensemble_by_document"):
        assert rows_of(catalogue, f"from {view}") == []


def test_equal_scores_are_certain_unless_they_are_zero(catalogue):
    catalogue.execute(ENSEMBLE).complete()
    catalogue.execute("update influence_scores set influence_nats = sequence_id - 3").complete()
    rows = rows_of(catalogue, "from ensemble_scores order by sequence_id")
    assert [(row["low_nats"], row["high_nats"], row["is_certain"]) for row in rows] == [(-2, -2, True), (0, 0, False)]


@pytest.mark.parametrize("view", ["ensemble_scores", "ensemble_by_document"])
def test_one_query_is_read_from_its_own_blocks(catalogue, view):
    """A block has 122,880 rows; each model has more of each query."""
    catalogue.execute(ENSEMBLE).complete()
    catalogue.execute(
        "create temp table names as select 'question-' || range as name from range(6);"
        "insert into queries by name select * exclude (name) replace (name as query_id, hash(name) as query_key)"
        " from names, (from queries limit 1);"
        "delete from influence_scores; insert into influence_scores"
        " select hash(name), i, generation_id, i, 6 from names, generations, range(130_000) each (i) order by all"
    ).complete()
    plan = catalogue.execute(f"explain analyze from {view} where query_id = 'question-3'").fetchall()[0][1]
    blocks = [tuple(map(int, found)) for found in re.findall(r"Row Groups Scanned: (\d+) / (\d+)", plan)]
    of_scores = [(read, there) for read, there in blocks if there > 6]
    assert of_scores
    assert all(3 * read <= there for read, there in of_scores)


def ridge_influences(rng, seeds):
    """The influence of one training point on one prediction of ridge regression, by the seed of its random features.

    (ΦᵀΦ + λI) w = Φᵀy; one more copy of point 0 changes the prediction φ(x)ᵀw by φ(x)ᵀ(ΦᵀΦ + λI)⁻¹φ₀ (y₀ − φ₀ᵀw).
    """
    n, d, width, damping = 30, 4, 24, 1.0
    X, x, w = rng.standard_normal((n, d)), rng.standard_normal(d), rng.standard_normal(d)
    y = np.tanh(X @ w) + 0.1 * rng.standard_normal(n)
    W = rng.standard_normal((seeds, d, width))
    Φ, φ = (np.maximum(at @ W, 0) / np.sqrt(width) for at in (X, x[None]))
    H = Φ.transpose(0, 2, 1) @ Φ + damping * np.eye(width)
    fitted = np.linalg.solve(H, (Φ.transpose(0, 2, 1) @ y)[..., None])
    residual = y[0] - (Φ[:, :1] @ fitted)[:, 0, 0]
    return (φ @ np.linalg.solve(H, Φ[:, :1].transpose(0, 2, 1)))[:, 0, 0] * residual


def test_intervals_cover_what_is_expected_over_seeds(catalogue):
    """95 % of them should: of 100 repetitions with four members each, at least 90 do, and not all of them are wide."""
    catalogue.execute(ENSEMBLE).complete()
    catalogue.execute("insert into generations select * replace (13 as generation_id, 3 as member) from generations "
                      "where member = 2; delete from influence_scores").complete()  # fmt: skip
    rng = np.random.default_rng(0)
    expectations = []
    for repetition in range(REPETITIONS):
        influences = ridge_influences(rng, seeds=MEMBERS + 2_000)
        expectations.append(influences[MEMBERS:].mean())
        rows = [
            [repetition, generation, float(score)]
            for generation, score in zip((2, 11, 12, 13), influences[:MEMBERS], strict=True)
        ]
        catalogue.executemany("insert into influence_scores values (hash('q1'), $1, $2, $3, 6)", rows)
    found = rows_of(catalogue, "from ensemble_scores order by sequence_id")
    assert [row["members"] for row in found] == [MEMBERS] * REPETITIONS
    covered = [row["low_nats"] <= truth <= row["high_nats"] for row, truth in zip(found, expectations, strict=True)]
    assert 90 <= sum(covered) < REPETITIONS
    normal = [abs(row["influence_nats"] - truth) <= 1.96 * row["standard_error_nats"]
              for row, truth in zip(found, expectations, strict=True)]  # fmt: skip
    assert sum(normal) < 90, "Gaussian intervals of four members are too narrow"
    certain = [(row["influence_nats"] > 0) == (truth > 0)
               for row, truth in zip(found, expectations, strict=True) if row["is_certain"]]  # fmt: skip
    assert len(certain) > 20
    assert np.mean(certain) > 0.95


def test_self_influence_is_averaged_over_the_members_that_have_the_whole_document(catalogue):
    catalogue.execute(ENSEMBLE).complete()
    rows = rows_of(catalogue, "from ensemble_self_influence order by document_id")
    found = [(row["document_id"], row["self_influence_nats"], row["nats_per_token"], row["members"]) for row in rows]
    assert found == [("d1", 5.0, pytest.approx(5 / 6), 3), ("d3", 2.0, pytest.approx(2 / 6), 3)]
    assert rows[0]["standard_error_nats"] == pytest.approx(1 / np.sqrt(3))
    assert rows[0]["low_nats"] == pytest.approx(stats.t.interval(0.95, 2, loc=5, scale=1 / np.sqrt(3))[0])
