"""Mean states and their cosines, against sums that are written out."""

import math

import torch

from influence_assets.maths.representation_similarity import cosine_similarities, mean_states


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_means_are_over_the_tokens_of_a_group():
    states, groups = random(6, 3), [2, 0, 2, 2, 0, 3]
    found = mean_states(states, torch.tensor(groups), 5)
    for group in range(5):
        of_group = [state for state, number in zip(states, groups, strict=True) if number == group]
        expected = sum(of_group) / len(of_group) if of_group else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(found[group], expected)


def test_cosines_are_those_of_the_angles():
    X, Y = random(2, 4), random(3, 4, seed=1)
    found = cosine_similarities(X, Y)
    for x, row in zip(X.tolist(), found, strict=True):
        for y, cosine in zip(Y.tolist(), row, strict=True):
            dot = sum(a * b for a, b in zip(x, y, strict=True))
            assert math.isclose(cosine, dot / math.hypot(*x) / math.hypot(*y), rel_tol=1e-12)


def test_the_same_direction_is_one_and_nothing_is_zero():
    X = random(1, 4)
    Y = torch.cat([3 * X, -0.5 * X, 0 * X])
    torch.testing.assert_close(cosine_similarities(X, Y)[0], torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
