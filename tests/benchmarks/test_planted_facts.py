"""The figures of the invented facts, against ranks and probabilities that are counted by hand."""

import numpy as np
import polars as pl
import pytest

from benchmarks import judged_study
from benchmarks.planted_facts import figures, learned


def items(method, query_id, true_ranks, count=20):
    return [
        {"method": method, "query_id": query_id, "rank": n, "is_true": n in true_ranks} for n in range(1, count + 1)
    ]


def test_figures_are_those_counted_by_hand():
    of_one = items("one", "first", {1, 3, 12}) + items("one", "late", {4}) + items("one", "none", set())
    of_two = items("two", "many", set(range(2, 16)))
    one, two = figures(pl.DataFrame(of_one + of_two)).to_dicts()
    assert (one["method"], one["questions"], one["first"]) == ("one", 3, 1)
    assert one["reciprocal_rank"] == pytest.approx((1 + 1 / 4 + 0) / 3)
    assert one["recall_at_five"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (two["method"], two["questions"], two["first"]) == ("two", 1, 0)
    assert two["reciprocal_rank"] == 1 / 2
    assert two["recall_at_five"] == 4 / 5  # of many true ones, five are all that can be found


def test_a_fact_is_learned_if_its_own_answer_is_the_most_probable():
    text = learned(np.array([[-1.0, -3.0, -3.0], [-1.0, -2.0, -3.0], [-4.0, -4.0, -1.0]]))
    assert text.startswith("learned: 2 of 3 ")
    assert "mean log-probability -1.33 nats, 1.67 above" in text


def test_the_study_that_is_judged_by_retraining_has_no_facts(tmp_path):
    judged_study.write(tmp_path)
    assert not list(tmp_path.rglob("facts.jsonl"))
