"""The judge's figures against SciPy and closed forms."""

import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from influence_assets.analysis.judging import agreement_of_seeds, calibration, ceiling, judge, rank_correlations


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_rank_correlations_are_scipys_with_ties(generator):
    x, y = generator.integers(0, 9, (5, 30)).astype(float), generator.standard_normal((5, 30))
    expected = [spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert rank_correlations(x, y) == pytest.approx(expected)
    assert rank_correlations(np.ones((1, 4)), np.arange(4.0)[None]) == [0]


def test_the_ceiling_is_what_the_truth_has_with_a_mean_over_seeds(generator):
    """Outcomes are a truth and noise of the same size: r = 1/2, and the truth's correlation with a mean of k is known.

    For Gaussian values it is √(k / (k + 1)), which a large sample shows; ranks lower both a little.
    """
    truth = generator.standard_normal((200, 400))
    for seeds in (2, 3):
        outcomes = truth + generator.standard_normal((seeds, 200, 400))
        found = ceiling(agreement_of_seeds(outcomes), seeds)
        assert found == pytest.approx(rank_correlations(truth, outcomes.mean(0)).mean(), abs=0.02)
        assert found == pytest.approx(np.sqrt(seeds / (seeds + 1)), abs=0.03)


def test_negative_agreement_counts_as_none():
    outcomes = np.stack([np.arange(6.0)[None], -np.arange(6.0)[None]])
    assert agreement_of_seeds(outcomes) == 0
    assert ceiling(0.0, 2) == 0


def test_the_line_is_that_of_least_squares(generator):
    predicted = generator.standard_normal((4, 50))
    measured = 0.7 * predicted + 3 + 0.1 * generator.standard_normal((4, 50))
    line = calibration(predicted, measured)
    assert line.slope == pytest.approx([linregress(p, m).slope for p, m in zip(predicted, measured, strict=True)])
    shifted = [m - p for p, m in zip(predicted, measured, strict=True)]
    expected = [1 - np.var(rest) / np.var(m) for rest, m in zip(shifted, measured, strict=True)]
    assert line.r_squared == pytest.approx(expected)
    assert np.isnan(calibration(np.ones((1, 5)), measured[:1, :5]).slope).all()


def test_intervals_hold_the_true_score_and_ratios_are_paired(generator):
    """A method and its copy: their ratio is 1 in every resample, though the score itself varies."""
    truth = generator.standard_normal((30, 40))
    outcomes = truth + 0.5 * generator.standard_normal((2, 30, 40))
    good = truth + generator.standard_normal((30, 40))
    board = judge(
        {"good": good, "copy": good, "bad": -good, "chance": generator.standard_normal((30, 40))},
        outcomes, reference="good", resamples=200,
    )  # fmt: skip
    score, ratio = board.scores["good"], board.ratios["copy"]
    assert score.low < score.value < score.high
    assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)
    assert board.ratios["bad"].high == pytest.approx(-1)
    assert board.scores["chance"].low < 0 < board.scores["chance"].high
    assert board.ceiling.low < board.ceiling.value < board.ceiling.high
    assert score.value == pytest.approx(board.by_query["good"].mean())


def test_the_interval_covers_the_expected_score():
    """Over many draws of queries and subsets from one population, nine of ten intervals and more hold its mean."""
    covered, truths = 0, []
    for draw in range(60):
        generator = np.random.default_rng(draw)
        truth = generator.standard_normal((20, 30))
        board = judge(
            {"it": truth + generator.standard_normal((20, 30))}, truth[None] + 0.0, reference="it", resamples=150
        )
        truths.append(board.scores["it"])
    mean = np.mean([score.value for score in truths])
    covered = sum(score.low <= mean <= score.high for score in truths)
    assert covered >= 52
