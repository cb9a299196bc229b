"""Agreement of estimates, on cases whose figures are known."""

import numpy as np
import pytest

from influence_assets.analysis.agreement import agreement

EXACT = np.arange(40.0)[None]


def test_a_scaled_copy_agrees_but_for_its_slope():
    found = agreement(EXACT, 3 * EXACT + 1)
    assert (found.pearson, found.spearman, found.top10_recall) == pytest.approx((1, 1, 1))
    assert found.slope == pytest.approx(3)


def test_a_reversed_copy_disagrees():
    found = agreement(EXACT, -EXACT)
    assert (found.pearson, found.spearman, found.top10_recall, found.slope) == pytest.approx((-1, -1, 0, -1))


def test_a_monotone_curve_keeps_the_order_alone():
    found = agreement(EXACT, np.exp(EXACT / 4))
    assert found.spearman == pytest.approx(1)
    assert found.pearson < 0.8


def test_figures_are_means_over_queries_and_nan_is_skipped():
    exact = np.concatenate([EXACT, EXACT])
    estimated = np.concatenate([EXACT, -EXACT])
    assert agreement(exact, estimated).pearson == pytest.approx(0)
    spoiled = EXACT.copy()
    spoiled[0, 7] = np.nan
    wild = EXACT.copy()
    wild[0, 7] = 1e9
    assert agreement(spoiled, wild).pearson == pytest.approx(1)


def test_the_share_of_the_exact_ten_that_is_found():
    estimated = EXACT.copy()
    estimated[0, -3:] = -1  # three of the ten strongest are lost
    assert agreement(EXACT, estimated).top10_recall == pytest.approx(0.7)


def test_too_little_to_correlate_is_none():
    assert agreement(np.ones((2, 9)), np.ones((2, 9))) is None
    assert agreement(np.zeros((1, 2)), np.zeros((1, 2))) is None
