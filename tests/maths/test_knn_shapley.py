"""KNN-Shapley against its definition: every subset of the points, and every order of those at equal distance."""

import itertools
import math

import pytest
import torch

from influence_assets.maths import knn_shapley
from influence_assets.maths.knn_shapley import shapley_values, values_of_parts
from influence_assets.maths.points import QueryPoints, TrainingPoints


def worth(subset, distances, agrees, K):
    """v(S): the share of K votes, over all orders of points at equal distance (the mean over all that sort S)."""
    nearest = sorted(distances[point] for point in subset)
    orders = [order for order in itertools.permutations(subset) if [distances[point] for point in order] == nearest]
    return sum(sum(agrees[p] for p in order[:K]) for order in orders) / (K * len(orders))


def enumerated(distances, agrees, K):
    """Σ_S |S|! (N−1−|S|)! / N! · (v(S ∪ i) − v(S))."""
    N = len(distances)
    subsets = [s for size in range(N + 1) for s in itertools.combinations(range(N), size)]
    v = {subset: worth(subset, distances, agrees, K) for subset in subsets}
    values = []
    for i in range(N):
        total = 0.0
        for S in subsets:
            if i not in S:
                weight = math.factorial(len(S)) * math.factorial(N - 1 - len(S)) / math.factorial(N)
                total += weight * (v[tuple(sorted((*S, i)))] - v[S])
        values.append(total)
    return values


def recursion(agrees, K):
    """The paper's recursion, for points that are sorted already."""
    N = len(agrees)
    s = [0.0] * N
    s[-1] = agrees[-1] * min(K, N) / (N * K)
    for i in range(N - 1, 0, -1):
        s[i - 1] = s[i] + (agrees[i - 1] - agrees[i]) / K * min(K, i) / i
    return s


DISTINCT = [0.7, 0.1, 2.5, 1.1, 0.3, 4.0]
CASES = {
    "distinct": DISTINCT,
    "some_tied": [0.5, 0.1, 0.5, 1.0, 0.5, 1.0],
    "nearest_tied": [0.1, 0.1, 0.1, 1.0, 2.0, 2.0],
    "all_tied": [1.0] * 6,
    "one": [0.2],
    "eight": [*DISTINCT, 2.5, 0.3],
}
LABELS = [True, False, False, True, True, False, False, True]


@pytest.mark.parametrize("K", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_all_subsets(case, K):
    distances = CASES[case]
    agrees = LABELS[: len(distances)]
    found = shapley_values(torch.tensor([distances], dtype=torch.float64), torch.tensor([agrees]), K)[0]
    torch.testing.assert_close(found, torch.tensor(enumerated(distances, agrees, K), dtype=torch.float64))


@pytest.mark.parametrize("K", [1, 4, 70])
def test_values_of_distinct_distances_follow_the_recursion(K):
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(3, 50, generator=generator, dtype=torch.float64)
    agrees = torch.rand(3, 50, generator=generator) < 0.3
    found = shapley_values(distances, agrees, K)
    for row, order in enumerate(distances.argsort(1)):
        expected = torch.tensor(recursion(agrees[row, order].double().tolist(), K), dtype=torch.float64)
        torch.testing.assert_close(found[row, order], expected)


def test_no_points_have_no_values():
    assert shapley_values(torch.zeros(2, 0, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.bool), 3).shape == (
        2,
        0,
    )


PARTS = 8


def corpus(points=40, width=3, vocabulary=4):
    """Training and query tokens; the last part has no token."""
    generator = torch.Generator().manual_seed(1)

    def integers(bound, count):
        return torch.randint(bound, (count,), generator=generator)

    states = torch.randn(points, width, generator=generator, dtype=torch.float64)
    states[1::3] = states[::3][: len(states[1::3])]  # the same context again, as when a text begins like another
    tests = torch.cat([states[:4], torch.randn(5, width, generator=generator, dtype=torch.float64)])
    queries = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2])
    training = training_points(states, integers(vocabulary, points), integers(PARTS - 1, points))
    return states, training, QueryPoints(tests, integers(vocabulary, len(tests)), queries, 3)


def training_points(states, labels, parts, block=16):
    return TrainingPoints(lambda: states.split(block), labels, parts, PARTS)


def rounded_distances(states, test):
    return [round(math.dist(x, test), 9) for x in states]


@pytest.mark.parametrize("pairs_at_once", [1, 100, 2**23])
def test_parts_and_queries_have_the_sums_of_their_tokens(pairs_at_once, monkeypatch):
    monkeypatch.setattr(knn_shapley, "_PAIRS_AT_ONCE", pairs_at_once)
    states, training, asked = corpus()
    expected = torch.zeros(3, PARTS, dtype=torch.float64)
    for test, label, query in zip(asked.states, asked.labels, asked.queries, strict=True):
        distances = torch.tensor([rounded_distances(states, test)], dtype=torch.float64)
        values = shapley_values(distances, (training.labels == label)[None], 3)[0]
        for value, part in zip(values, training.parts, strict=True):
            expected[query, part] += value
    torch.testing.assert_close(values_of_parts(training, asked, 3), expected)


def test_values_do_not_depend_on_the_order_in_which_tokens_are_stored():
    states, training, asked = corpus()
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(2))
    other = training_points(states[order], training.labels[order], training.parts[order], block=9)
    first, second = (values_of_parts(each, asked, 3) for each in (training, other))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_values_of_a_query_sum_to_the_votes_of_its_tokens():
    states, training, asked = corpus()
    K, votes = 4, torch.zeros(3, dtype=torch.float64)
    for test, label, query in zip(asked.states, asked.labels, asked.queries, strict=True):
        votes[query] += worth_of_all(rounded_distances(states, test), (training.labels == label).tolist(), K)
    torch.testing.assert_close(values_of_parts(training, asked, K).sum(1), votes)


def worth_of_all(distances, agrees, K):
    """v of all points: whole groups of tied points vote while there are votes, and the last shares what is left."""
    left, votes = K, 0.0
    for distance in sorted(set(distances)):
        group = [agree for d, agree in zip(distances, agrees, strict=True) if d == distance]
        taken = min(left, len(group))
        votes += taken * sum(group) / len(group)
        left -= taken
    return votes / K


def test_states_that_are_missing_are_refused():
    states, training, asked = corpus()
    incomplete = training_points(states[:-1], training.labels, training.parts)
    with pytest.raises(ValueError, match="40 labels and 39 states"):
        values_of_parts(incomplete, asked, 3)
