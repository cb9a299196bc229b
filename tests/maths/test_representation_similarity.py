"""Cosines of mean states, and what of them documents have, against sums that are written out."""

import math

import torch

from influence_assets.maths.representation_similarity import divided_similarities, state_sums


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def test_sums_are_over_the_tokens_of_a_group():
    states, groups = random(6, 3), [2, 0, 2, 2, 0, 3]
    found = state_sums(states, torch.tensor(groups), 5)
    for group in range(5):
        of_group = [state for state, number in zip(states, groups, strict=True) if number == group]
        torch.testing.assert_close(found[group], sum(of_group, torch.zeros(3, dtype=torch.float64)))


def test_parts_sum_to_the_cosine_of_the_mean_states_of_their_sequence():
    X, states = random(2, 4, seed=1), random(9, 4)
    parts, sequences = torch.tensor([0, 0, 1, 2, 3, 3, 3, 3, 4]), torch.tensor([0, 0, 1, 2, 2])
    found = divided_similarities(X, state_sums(states, parts, 5), sequences)
    for query, x in enumerate(X.tolist()):
        for sequence in range(3):
            of_sequence = states[sequences[parts] == sequence].mean(0).tolist()
            share = float(found[query, sequences == sequence].sum())
            assert math.isclose(share, cosine(x, of_sequence), rel_tol=1e-12)


def test_a_document_has_what_its_tokens_add():
    """A token of the same direction as its sequence's sum has the share of its length in it."""
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    Y = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    found = divided_similarities(x, Y, torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([[0.25 * 0.6, 0.75 * 0.6]], dtype=torch.float64))


def test_the_same_direction_is_one_the_opposite_minus_one_and_nothing_zero():
    X = random(1, 4)
    found = divided_similarities(torch.cat([X, 0 * X]), torch.cat([3 * X, -0.5 * X, 0 * X]), torch.arange(3))
    expected = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
