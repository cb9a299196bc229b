"""The inverse of a training of limited length against gradient descent, step by step, on the dense matrix."""

import pytest
import torch

from influence_assets.maths.unrolled import response, unrolled
from tests.methods.forms import D_IN, D_OUT, FORMS, dense, gradients, λ


def dense_curvature(form):
    return dense(FORMS[form]) - λ * torch.eye(D_OUT * D_IN, dtype=torch.float64)


def applied(form, learning_rates):
    curvature = FORMS[form]
    basis = curvature.basis
    prepared = unrolled(curvature, learning_rates).precondition(basis.rotate(gradients()))
    return basis.rotate_back(prepared).flatten(1)


@pytest.mark.parametrize("form", FORMS)
def test_it_is_what_small_steps_come_to(form):
    """x ← x + η (V − G x), begun at 0, in so many steps that another halving of η changes nothing that is compared."""
    G, V, total = dense_curvature(form), gradients().flatten(1), 3.0
    found = []
    for steps in (4000, 8000):
        x = torch.zeros_like(V)
        for _ in range(steps):
            x = x + total / steps * (V - x @ G)
        found.append(x)
    expected = 2 * found[1] - found[0]  # what is left of η to the first order is taken out
    torch.testing.assert_close(applied(form, total), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_a_long_training_inverts_the_curvature(form):
    G, V = dense_curvature(form), gradients().flatten(1)
    values, U = torch.linalg.eigh(G)
    inside = values > 1e-9
    expected = (V @ U[:, inside] / values[inside]) @ U[:, inside].T
    outside = V @ U[:, ~inside] @ U[:, ~inside].T
    torch.testing.assert_close(applied(form, 1e6), expected + 1e6 * outside, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_a_short_training_multiplies_gradients(form):
    torch.testing.assert_close(applied(form, 1e-9) / 1e-9, gradients().flatten(1), rtol=1e-7, atol=1e-9)


def test_the_response_has_no_gap_where_the_curvature_ends():
    Λ = torch.tensor([-1e-18, 0.0, 1e-300, 1e-12, 1.0], dtype=torch.float64)
    expected = torch.tensor([2.0, 2.0, 2.0, 2.0 * (1 - 1e-12), 1 - torch.e**-2], dtype=torch.float64)
    torch.testing.assert_close(response(Λ, 2.0), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("learning_rates", [0.0, -1.0, float("nan")])
def test_without_training_there_is_no_answer(learning_rates):
    with pytest.raises(ValueError, match="not positive"):
        unrolled(FORMS["whole"], learning_rates)
