"""Scores of queries in factors, against the gradients themselves."""

import pytest
import torch

from influence_assets.maths import factored
from influence_assets.maths.ekfac import sequence_gradients
from influence_assets.maths.factored import Factors, in_cheapest_form, scores_of_layer, scoring_order
from influence_assets.maths.influence import layer_scores


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(queries=5, rank=3):
    return (
        Factors(normal(queries, rank, 6), normal(queries, rank, 8, seed=1)),
        normal(4, 9, 6, seed=2),
        normal(4, 9, 8, seed=3),
    )


def test_matrices_are_the_products_of_the_factors():
    V, _, _ = example()
    expected = torch.stack(
        [sum(torch.outer(x, y) for x, y in zip(L, R, strict=True)) for L, R in zip(V.L, V.R, strict=True)]
    )
    torch.testing.assert_close(V.matrices(), expected)


@pytest.mark.parametrize("at_once", [1, 2 * 4 * 9 * 3, 10**9])
def test_scores_by_factors_are_those_by_matrices(at_once, monkeypatch):
    monkeypatch.setattr(factored, "NUMBERS_AT_ONCE", at_once)
    P, Ds, a = example()
    expected = layer_scores(P.matrices(), sequence_gradients(Ds, a), 40)
    torch.testing.assert_close(scores_of_layer(P, Ds, a, 40), expected)
    torch.testing.assert_close(scores_of_layer(P.matrices(), Ds, a, 40), expected)


@pytest.mark.parametrize(("queries", "rank"), [(0, 3), (5, 0)])
def test_no_queries_and_queries_of_rank_zero_have_scores(queries, rank):
    P, Ds, a = example(queries, rank)
    torch.testing.assert_close(scores_of_layer(P, Ds, a, 40), torch.zeros(queries, 4, dtype=torch.float64))


def test_rows_of_zeros_change_nothing():
    P, Ds, a = example()
    padded = Factors(*(torch.cat([x, torch.zeros_like(x)], dim=1) for x in (P.L, P.R)))
    torch.testing.assert_close(scores_of_layer(padded, Ds, a, 40), scores_of_layer(P, Ds, a, 40))


@pytest.mark.parametrize(("rank", "sequences", "forms"), [(1, 1, False), (1, 10**6, True), (6, 4, True), (6, 1, True)])
def test_the_order_is_that_of_fewer_multiplications(rank, sequences, forms):
    P, Ds, _ = example(rank=rank)
    tokens = Ds.shape[1]
    pairs, entries = 5 * sequences, 6 * 8
    by_factors = pairs * tokens * (rank * 6 + rank * 8 + rank)
    by_matrices = sequences * tokens * entries + 5 * rank * entries + pairs * entries
    found = scoring_order(P, tokens, sequences)
    assert found.multiplications == min(by_factors, by_matrices)
    assert found.forms_gradients is (by_matrices < by_factors) is forms
    limited = scoring_order(P, tokens, sequences, largest_numbers=5 * entries - 1)
    assert (limited.forms_gradients, limited.multiplications) == (False, by_factors)
    assert scoring_order(P, tokens, sequences, largest_numbers=5 * entries) == found


def test_the_cheapest_form_scores_alike():
    P, Ds, a = example(rank=6)
    form = in_cheapest_form(P, Ds.shape[1], len(Ds))
    assert isinstance(form, torch.Tensor)
    assert in_cheapest_form(P, Ds.shape[1], len(Ds), largest_numbers=1) is P
    torch.testing.assert_close(scores_of_layer(form, Ds, a, 40), scores_of_layer(P, Ds, a, 40))
