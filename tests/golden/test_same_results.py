"""The comparison of two snapshots notices what matters and overlooks what does not."""

import copy

import pytest

from tests.golden.same_results import differences

SCORES = [
    {"query_id": "lamp", "sequence_id": 3, "influence_nats": 2.0},
    {"query_id": "lamp", "sequence_id": 5, "influence_nats": -1e-6},
    {"query_id": "baker", "sequence_id": 3, "influence_nats": 0.5},
]


@pytest.fixture
def before():
    return {
        "command": {"run": ["--new-generation", "--study"]},
        "stages": {
            "float64, computed": {"rows": {"scores": copy.deepcopy(SCORES)}, "tables": [{"comment": "A score."}]},
            "float32, computed": {"rows": {"scores": copy.deepcopy(SCORES)}},
        },
    }


@pytest.fixture
def after(before):
    return copy.deepcopy(before)


def scores(snapshot, precision="float64"):
    return snapshot["stages"][f"{precision}, computed"]["rows"]["scores"]


def test_equal_snapshots_have_no_differences(before, after):
    assert list(differences(before, after)) == []


def test_rows_may_come_in_any_order(before, after):
    scores(after).reverse()
    assert list(differences(before, after)) == []


@pytest.mark.parametrize(("precision", "allowed", "refused"), [("float64", 1e-9, 4e-9), ("float32", 1e-4, 4e-4)])
def test_numbers_differ_by_a_share_of_the_largest_of_their_column(before, after, precision, allowed, refused):
    scores(after, precision)[1]["influence_nats"] += allowed
    assert list(differences(before, after)) == []
    scores(after, precision)[1]["influence_nats"] += refused
    (line,) = differences(before, after)
    assert f"/stages/{precision}, computed/rows/scores.influence_nats" in line


@pytest.mark.parametrize(
    "change",
    [
        lambda after: scores(after).pop(),
        lambda after: scores(after)[0].update(sequence_id=4),
        lambda after: [row.update(rank=1) for row in scores(after)],
        lambda after: after["stages"]["float64, computed"]["tables"][0].update(comment="Another."),
        lambda after: after["command"]["run"].pop(),
        lambda after: after["command"].update(walk=[]),
        lambda after: scores(after)[0].update(influence_nats=None),
    ],
)
def test_everything_else_is_compared_exactly(before, after, change):
    change(after)
    assert list(differences(before, after))


def test_a_new_column_hides_no_other_difference(before, after):
    for row in scores(after):
        row["rank"] = 1
    scores(after)[2]["influence_nats"] = 0.6
    lines = list(differences(before, after))
    assert len(lines) == 2
    assert any(".rank: is a column only after" in line for line in lines)
    assert any(".influence_nats: 0.5 before, 0.6 after" in line for line in lines)


def test_rows_that_are_on_one_side_alone_are_named(before, after):
    scores(after)[0]["sequence_id"] = 4
    first, second = differences(before, after)
    assert "only before" in first
    assert '"sequence_id": 3' in first
    assert "only after" in second
    assert '"sequence_id": 4' in second
