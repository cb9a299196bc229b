"""Data Shapley beside its definition: the sum over all subsets that a unit can join, each with its weight."""

import math
from itertools import chain, combinations

import numpy as np
import pytest
import torch

from influence_assets.analysis.data_shapley import (
    RECENT,
    Limits,
    Remembered,
    data_shapley,
    largest_recent_change,
    order_of_arrival,
)

NEVER_CUT_OFF = Limits(tolerance=0.0, largest_change=0.0, permutations=300)


def enumerated(utility, units):
    """φ_i = Σ_{S ∌ i} |S|! (n − |S| − 1)! / n! · (v(S ∪ {i}) − v(S)), float64 [query, unit]."""
    columns = []
    for unit in range(units):
        others = [each for each in range(units) if each != unit]
        subsets = chain.from_iterable(combinations(others, size) for size in range(units))
        columns.append(
            sum(
                math.factorial(len(s)) * math.factorial(units - len(s) - 1) / math.factorial(units)
                * (utility(frozenset(s) | {unit}) - utility(frozenset(s))).mean(0)
                for s in subsets
            )
        )  # fmt: skip
    return np.stack(columns, axis=-1)


def synthetic(units, *, queries=3, seeds=2, seed=0):
    """Log-probabilities that rise with each unit the less the more there are, with pairs that need each other."""
    generator = np.random.default_rng(seed)
    weight = generator.gamma(1.0, 1.0, (queries, units))
    pair = generator.standard_normal((queries, units, units))

    def outcomes(chosen):
        is_in = np.isin(np.arange(units), list(chosen)).astype(float)
        alone = np.log1p(weight @ is_in) + 0.2 * np.einsum("quw,u,w->q", pair, is_in, is_in)
        return np.tile(-10 + alone, (seeds, 1))

    return Remembered(outcomes)


def trained(units):
    """A classifier of three classes, trained by gradient descent on groups of points; each seed begins elsewhere."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(units, 4, 5, generator=generator, dtype=torch.float64)
    classes = torch.randint(3, (units, 4), generator=generator)
    asked, answers = torch.randn(2, 5, generator=generator, dtype=torch.float64), torch.tensor([0, 2])

    def log_p(chosen, seed):
        W = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
        rows = sorted(chosen)
        for _ in range(30 if rows else 0):
            loss = torch.nn.functional.cross_entropy(points[rows].flatten(0, 1) @ W.T, classes[rows].flatten())
            (gradient,) = torch.autograd.grad(loss, W)
            W = (W - 0.5 * gradient).detach().requires_grad_()
        return (asked @ W.T).log_softmax(-1)[torch.arange(2), answers].detach().numpy()

    return Remembered(lambda chosen: np.stack([log_p(chosen, seed) for seed in (1, 2, 3)]))


@pytest.mark.parametrize("make", [synthetic, trained])
def test_values_are_those_of_the_enumeration_within_their_errors(make):
    utility = make(6)
    exact = enumerated(utility, 6)
    found = data_shapley(utility, 6, seed=0, limits=NEVER_CUT_OFF)
    apart = np.abs(found.values - exact)
    assert (apart < 4 * found.standard_errors + 1e-12).all()
    assert apart.max() < 0.1 * np.abs(exact).max()
    assert found.permutations == 300


def test_standard_errors_are_the_spread_between_computations():
    """Root mean square of (value − exact) / error over computations with other orders: 1."""
    utility = synthetic(5)
    exact = enumerated(utility, 5)
    limits = Limits(tolerance=0.0, largest_change=0.0, permutations=40)
    runs = [data_shapley(utility, 5, seed=seed, limits=limits) for seed in range(60)]
    z = np.stack([(run.values - exact) / run.standard_errors for run in runs])
    assert np.sqrt((z**2).mean()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("make", [synthetic, trained])
def test_values_sum_to_what_everything_adds_if_nothing_is_cut_off(make):
    utility = make(6)
    found = data_shapley(utility, 6, seed=1, limits=NEVER_CUT_OFF._replace(permutations=7))
    whole = (utility(frozenset(range(6))) - utility(frozenset())).mean(0)
    np.testing.assert_allclose(found.values.sum(-1), whole, rtol=1e-12)
    np.testing.assert_allclose(found.cut_off, 0, atol=1e-12)
    np.testing.assert_allclose(found.everything - found.nothing, whole)


def test_what_is_cut_off_is_within_the_tolerance_of_every_query():
    """Units of which three are enough: orders end long before their end."""
    units, limits = 20, Limits(tolerance=0.02, largest_change=0.0, permutations=100)
    gain = np.array([[3.0], [1.0]])

    def outcomes(chosen):
        return -2 + np.tile((gain * (1 - math.exp(-1.5 * len(chosen)))).T, (2, 1)) - 1e-4 * (units - len(chosen))

    utility = Remembered(outcomes)
    found = data_shapley(utility, units, seed=0, limits=limits)
    assert found.truncated_share > 0.3
    assert (np.abs(found.cut_off) > 1e-6).all()
    assert (np.abs(found.cut_off) <= limits.tolerance * np.abs(found.everything)).all()
    longest = max(len(chosen) for chosen in utility.known if len(chosen) < units)
    assert longest < units - 4


def test_a_query_that_still_changes_keeps_orders_from_being_cut_off():
    """Of two queries one is settled from the first unit on, and large enough to hide the other in their sum."""

    def outcomes(chosen):
        return np.tile([-1000.0, -10 + 0.5 * len(chosen)], (2, 1))

    found = data_shapley(outcomes, 12, seed=0, limits=Limits(tolerance=0.01, largest_change=0.0, permutations=5))
    assert found.truncated_share == 0
    np.testing.assert_allclose(found.values, np.tile([[0.0], [0.5]], (1, 12)), atol=1e-12)


def test_values_of_an_additive_utility_are_its_terms_and_errors_those_of_seeds():
    generator = np.random.default_rng(3)
    terms = generator.standard_normal((4, 2, 5))  # [seed, query, unit]
    found = data_shapley(
        lambda chosen: terms[..., sorted(chosen)].sum(-1) - 5, 5, seed=0, limits=Limits(permutations=1000)
    )
    np.testing.assert_allclose(found.values, terms.mean(0))
    np.testing.assert_allclose(found.standard_errors, terms.std(0, ddof=1) / 2, rtol=1e-6)
    assert found.permutations == RECENT  # no mean changes, and no fewer are enough
    assert found.largest_change < 1e-12


def test_a_unit_that_adds_nothing_is_worth_nothing_and_equal_ones_are_worth_the_same():
    def outcomes(chosen):
        return np.full((2, 1), math.sqrt(len(chosen & {0, 1})) + (2 in chosen))

    found = data_shapley(outcomes, 4, seed=0, limits=Limits(tolerance=0.0, largest_change=0.0, permutations=400))
    assert found.values[0, 3] == 0
    assert found.values[0, 2] == 1
    assert found.values[0, 0] == pytest.approx(math.sqrt(2) / 2, abs=4 * found.standard_errors[0, 0])


def test_one_seed_has_no_known_error():
    found = data_shapley(synthetic(3, seeds=1), 3, seed=0, limits=Limits(permutations=3))
    assert np.isnan(found.standard_errors).all()
    assert np.isinf(found.largest_change)


def test_each_set_is_computed_once_and_a_killed_computation_goes_on():
    inner, asked = synthetic(6), []

    def counted(chosen):
        asked.append(chosen)
        if len(asked) == 20:
            raise KeyboardInterrupt
        return inner(chosen)

    kept = Remembered(counted)
    with pytest.raises(KeyboardInterrupt):
        data_shapley(kept, 6, seed=2, limits=NEVER_CUT_OFF)
    before = set(kept.known)
    assert len(before) == 19
    resumed = data_shapley(kept, 6, seed=2, limits=NEVER_CUT_OFF)
    uninterrupted = data_shapley(synthetic(6), 6, seed=2, limits=NEVER_CUT_OFF)
    np.testing.assert_array_equal(resumed.values, uninterrupted.values)
    assert sorted(asked[20:], key=sorted) == sorted(set(asked[20:]), key=sorted)
    assert not before & set(asked[20:])


def test_orders_differ_and_are_functions_of_their_numbers():
    orders = [tuple(order_of_arrival(8, seed=0, number=number)) for number in range(50)]
    assert len(set(orders)) == 50
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[7] == tuple(order_of_arrival(8, seed=0, number=7))
    assert np.mean([order[0] for order in orders]) == pytest.approx(3.5, abs=1.2)


def test_the_largest_recent_change_is_that_of_the_worst_mean():
    """By hand: 100 means of two units, of which one was once 30 % off in one unit and 10 % in the other."""
    means = np.tile([2.0, -4.0], (RECENT + 5, 1))
    means[-40] = [2.6, -3.6]
    means[0] = [100.0, 100.0]  # too long ago
    assert largest_recent_change(means) == pytest.approx(0.2)
    assert largest_recent_change(means[: RECENT - 1]) == np.inf
