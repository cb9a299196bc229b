"""Datamodels beside dense solves with a column for the intercept, and beside outcomes that were made linear."""

import numpy as np
import pytest

from influence_assets.analysis.datamodels import FOLDS, PENALTIES, fitted, folds_of, ridge
from influence_assets.analysis.judging import rank_correlations
from influence_assets.corpus.subsets import drawn_units


def drawn(units, subsets, share=0.5, seed=0):
    return np.stack([drawn_units(units, share, seed=seed, subset=number) for number in range(subsets)], axis=1)


def made(units=12, subsets=60, queries=3, noise=0.0, seed=0):
    """Subsets, weights, and outcomes that are linear in them but for noise."""
    generator = np.random.default_rng(seed)
    is_in, weights = drawn(units, subsets, seed=seed), generator.standard_normal((queries, units))
    return is_in, weights, -40 + weights @ is_in + noise * generator.standard_normal((queries, subsets))


def dense(is_in, y, penalty):
    """Weights and intercept of one query by the normal equations, the intercept being a column without a penalty."""
    design = np.column_stack([np.ones(is_in.shape[1]), is_in.T.astype(float)])
    normal = design.T @ design + penalty * np.diag([0.0] + [1.0] * len(is_in))
    solution = np.linalg.solve(normal, design.T @ y)
    return solution[1:], solution[0]


@pytest.mark.parametrize(("units", "subsets"), [(12, 60), (40, 15)])
def test_weights_are_those_of_the_dense_solve(units, subsets):
    is_in, _, outcomes = made(units, subsets, noise=0.5)
    found = ridge(is_in, outcomes)
    for query, penalty in enumerate(found.penalties):
        expected, _ = dense(is_in, outcomes[query], penalty)
        np.testing.assert_allclose(found.weights[query], expected, atol=1e-9)


@pytest.mark.parametrize(("units", "subsets"), [(12, 30), (25, 14)])
def test_the_penalty_has_the_least_leave_one_out_error_of_all_that_are_tried(units, subsets):
    """By fitting again without each subset."""
    is_in, _, outcomes = made(units, subsets, queries=1, noise=2.0)
    chosen = ridge(is_in, outcomes).penalties[0]

    def error(penalty):
        errors = []
        for left in range(subsets):
            others = np.arange(subsets) != left
            weights, intercept = dense(is_in[:, others], outcomes[0, others], penalty)
            errors.append(outcomes[0, left] - intercept - weights @ is_in[:, left])
        return np.square(errors).sum()

    X = is_in - is_in.mean(1, keepdims=True)
    tried = np.trace(X.T @ X) / subsets * PENALTIES
    assert chosen == pytest.approx(min(tried, key=error))


def test_linear_outcomes_are_recovered_relative_to_the_average_unit():
    is_in, weights, outcomes = made()
    found = fitted(is_in, outcomes)
    expected = weights - weights.mean(1, keepdims=True)
    np.testing.assert_allclose(found.weights, expected, atol=0.01)
    np.testing.assert_allclose(found.weights.sum(1), 0, atol=1e-9)
    assert (rank_correlations(found.predicted, outcomes) > 0.99).all()


def test_the_errors_cover_what_noise_does_to_the_weights():
    """Root mean square of (weight − truth) / error over draws of the noise: about 1."""
    z = []
    for seed in range(40):
        is_in, weights, outcomes = made(10, 80, noise=0.3, seed=seed)
        found = fitted(is_in, outcomes)
        z.append((found.weights - weights + weights.mean(1, keepdims=True)) / found.standard_errors)
    assert np.sqrt(np.square(z).mean()) == pytest.approx(1, abs=0.2)


def test_a_subset_is_predicted_without_its_own_outcome():
    is_in, _, outcomes = made(20, 30, noise=1.0)
    fold = folds_of(30, seed=0)
    before = fitted(is_in, outcomes).predicted
    changed = outcomes.copy()
    changed[:, fold == 3] += 100 * np.random.default_rng(1).standard_normal((3, (fold == 3).sum()))
    after = fitted(is_in, changed).predicted
    np.testing.assert_array_equal(after[:, fold == 3], before[:, fold == 3])
    assert (after[:, fold != 3] != before[:, fold != 3]).all()


def test_datamodels_of_pure_noise_predict_nothing_rather_than_the_opposite():
    generator = np.random.default_rng(0)
    is_in, outcomes = drawn(30, 64), generator.standard_normal((400, 64))
    found = fitted(is_in, outcomes)
    apart = found.predicted - found.predicted.mean(1, keepdims=True)
    covariances = (apart * outcomes).mean(1)
    assert abs(covariances.mean()) < 4 * covariances.std() / np.sqrt(400)
    correlations = rank_correlations(found.predicted, outcomes)
    assert -0.1 < correlations.mean() < 0.02
    in_sample = rank_correlations(found.weights @ is_in, outcomes)
    assert in_sample.mean() > 0.3  # what judging a fit by its own subsets would report
    fold = folds_of(64, seed=0)
    intercepts = np.stack([outcomes[:, fold != each].mean(1) for each in fold], axis=1)
    assert rank_correlations(found.predicted + intercepts, outcomes).mean() < -0.2  # why there are no intercepts


def test_folds_are_of_equal_size_and_all_there_are():
    sizes = np.bincount(folds_of(64, seed=0))
    assert len(sizes) == FOLDS
    assert sizes.max() - sizes.min() <= 1
    assert sorted(folds_of(4, seed=0)) == [0, 1, 2, 3]


def test_subsets_that_are_all_the_same_say_nothing():
    is_in = np.tile(np.array([[True], [False], [True]]), (1, 6))
    found = fitted(is_in, np.random.default_rng(0).standard_normal((2, 6)))
    assert (found.weights == 0).all()
    assert (found.predicted == 0).all()
