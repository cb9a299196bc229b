"""The demo's retrieval figures, against ranks that are counted by hand."""

import polars as pl
import pytest

from influence_assets.demo.retrieval import retrieval


def items(query_id, true_ranks, count=20):
    return [
        {
            "kind": "fact",
            "unit": "document",
            "method": "ekfac",
            "query_id": query_id,
            "rank": n,
            "is_true": n in true_ranks,
        }
        for n in range(1, count + 1)
    ]


def test_figures_are_those_counted_by_hand():
    rows = items("first", {1, 3, 12}) + items("late", {4}) + items("beyond", {11}) + items("none", set())
    (figures,) = retrieval(pl.DataFrame(rows))
    assert (figures.kind, figures.unit, figures.method, figures.questions) == ("fact", "document", "ekfac", 4)
    assert (figures.first, figures.in_ten) == (1, 2)
    assert figures.reciprocal_rank == pytest.approx((1 + 1 / 4 + 1 / 11 + 0) / 4)
    assert figures.recall == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)


def test_of_many_true_items_ten_are_all_that_can_be_found():
    (figures,) = retrieval(pl.DataFrame(items("many", set(range(1, 16)))))
    assert figures.recall == 1
