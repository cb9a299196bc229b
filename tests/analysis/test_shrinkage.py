"""The constant of calibrated scores, fitted to outcomes that were made with a known one."""

import numpy as np
import pytest

from influence_assets.analysis.shrinkage import CONSTANTS, C, calibrated, cross_fitted, fitted_constant, sigmas

PASSAGES, SUBSETS = 300, 40


def made(c, queries=40, seed=0, noise=0.0):
    """Scores of which a few are large, random subsets, and what retrained models would say if c were right."""
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((queries, PASSAGES))
    scores[:, :20] += 30 * generator.random((queries, 20))
    is_drawn = generator.random((PASSAGES, SUBSETS)) < 0.5
    measured = calibrated(scores, c) @ is_drawn
    measured += noise * measured.std(1, keepdims=True) * generator.standard_normal(measured.shape)
    return scores, is_drawn, measured


@pytest.mark.parametrize("c", [0.5, 4.0, 10.0, 60.0])
def test_the_constant_that_outcomes_were_made_with_is_found(c):
    assert fitted_constant(*made(c)) == pytest.approx(c, rel=0.07)


@pytest.mark.parametrize("c", [4.0, 10.0, 60.0])
def test_it_is_found_about_where_models_differ_by_chance(c):
    assert fitted_constant(*made(c, noise=0.5)) == pytest.approx(c, rel=0.5)


def test_it_is_the_one_that_explains_most():
    scores, is_drawn, measured = made(7.0, noise=1.0)
    left = []
    for c in CONSTANTS:
        apart = measured - calibrated(scores, c) @ is_drawn
        left.append(np.minimum(apart.var(1) / measured.var(1), 1).mean())
    assert fitted_constant(scores, is_drawn, measured) == CONSTANTS[np.argmin(left)]


def test_a_question_whose_answer_hardly_varies_decides_nothing():
    scores, is_drawn, measured = made(4.0, noise=0.5)
    before = fitted_constant(scores, is_drawn, measured)
    measured[0] *= 0.003
    assert fitted_constant(scores, is_drawn, measured) == pytest.approx(before, rel=0.3)


@pytest.mark.parametrize("c", [0.0, 1e5])
def test_an_end_of_what_is_tried_is_no_constant(c):
    assert fitted_constant(*made(c)) is None


@pytest.mark.parametrize("queries", [1, 19])
def test_few_questions_give_none(queries):
    assert fitted_constant(*made(5.0, queries=queries)) is None


def test_outcomes_that_fall_where_scores_rise_give_none():
    scores, is_drawn, measured = made(5.0)
    assert fitted_constant(scores, is_drawn, -measured) is None


def test_scores_without_known_noise_give_none():
    scores, is_drawn, measured = made(5.0)
    assert fitted_constant(scores[:, :19], is_drawn[:19], measured) is None


def test_questions_without_positive_scores_do_not_count():
    scores, is_drawn, measured = made(5.0)
    scores[::2] = -np.abs(scores[::2])
    assert fitted_constant(scores, is_drawn, measured) == pytest.approx(5.0, rel=0.07)
    scores[:24] = -np.abs(scores[:24])
    assert fitted_constant(scores, is_drawn, measured) is None


def test_judged_scores_have_the_constant_of_the_other_half():
    scores, is_drawn, measured = made(3.0)
    other = made(40.0)[2]
    measured[1::2] = other[1::2]
    found = cross_fitted(scores, is_drawn, measured)
    for half, c in ((slice(0, None, 2), 40.0), (slice(1, None, 2), 3.0)):
        large = scores[half] > 5
        kept = np.median(scores[half][large] ** 2 / found[half][large] - scores[half][large])
        assert kept / np.median(sigmas(scores[half])) == pytest.approx(c, rel=0.07)
    few = made(3.0, queries=6)
    assert np.array_equal(cross_fitted(*few), calibrated(few[0], C))
