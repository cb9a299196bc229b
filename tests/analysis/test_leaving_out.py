"""Differences of log-probabilities with and without a group, by hand."""

import numpy as np
import pytest

from influence_assets.analysis.leaving_out import leave_one_out, paired_leave_one_out

WITH = np.array([[-1.0, -10.0], [-3.0, -12.0]])
WITHOUT = np.array([[-2.0, -9.0], [-4.5, -14.0]])


def test_what_helped_is_positive():
    for change in (leave_one_out(WITH, WITHOUT), paired_leave_one_out(WITH, WITHOUT)):
        np.testing.assert_allclose(change.mean, [-2 + 3.25, -11 + 11.5])


def test_errors_of_means_are_those_of_two_samples_and_of_pairs_those_of_differences():
    np.testing.assert_allclose(leave_one_out(WITH, WITHOUT).standard_errors, np.sqrt([1 + 1.5625, 1 + 6.25]))
    np.testing.assert_allclose(paired_leave_one_out(WITH, WITHOUT).standard_errors, [0.25, 1.5])


def test_both_errors_are_the_spread_over_repeated_measurements():
    """Seeds add to both models what they share, and to each what it has alone: only pairs lose the former."""
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 3.0, (4000, 5, 1))
    everything, without = (shared + generator.normal(0, 0.5, (4000, 5, 1)) for _ in range(2))
    paired = [paired_leave_one_out(*each) for each in zip(everything, without, strict=True)]
    means = np.array([change.mean[0] for change in paired])
    assert np.sqrt(np.mean([change.standard_errors[0] ** 2 for change in paired])) == pytest.approx(
        means.std(), rel=0.05
    )
    apart = [leave_one_out(*each) for each in zip(everything, np.roll(without, 1, axis=0), strict=True)]
    means = np.array([change.mean[0] for change in apart])
    assert np.sqrt(np.mean([change.standard_errors[0] ** 2 for change in apart])) == pytest.approx(
        means.std(), rel=0.05
    )


def test_numbers_of_seeds_may_differ_unless_they_are_paired():
    change = leave_one_out(WITH, np.array([[-2.0, -9.0], [-4.5, -14.0], [-2.5, -7.0]]))
    np.testing.assert_allclose(change.mean, [-2 + 3, -11 + 10])


def test_one_seed_has_no_known_error():
    for of in (leave_one_out, paired_leave_one_out):
        change = of(WITH[:1], WITHOUT[:1])
        np.testing.assert_allclose(change.mean, [1, -1])
        assert np.isnan(change.standard_errors).all()
