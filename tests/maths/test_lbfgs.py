"""Minima against a dense solution and SciPy's own minimiser."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from influence_assets.maths.lbfgs import Search, minimised

SHAPES = {"first": (2, 3), "second": (4, 1)}
WIDTH = 10


def random(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat(X):
    return torch.cat([value.flatten() for value in X.values()])


def shaped(x):
    parts = x.split([rows * columns for rows, columns in SHAPES.values()])
    return {name: part.reshape(1, *shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def objective(function):
    def evaluated(X):
        x = flat(X).requires_grad_(True)
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x)
        return float(value.detach()), shaped(gradient)

    return evaluated


def matrix(seed):
    X = random(WIDTH, 2 * WIDTH, seed=seed)
    return X @ X.T / WIDTH + 0.1 * torch.eye(WIDTH, dtype=torch.float64)


ZERO = shaped(torch.zeros(WIDTH, dtype=torch.float64))
A, B, V = matrix(1), torch.linalg.inv(matrix(2)), random(WIDTH, seed=3)


def quadratic(x):
    return x @ A @ x / 2 - V @ x


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def softened(x):
    """Steep, then flat: a full step from afar is far too long."""
    return (1 + (x - V).square() * torch.arange(1.0, WIDTH + 1)).sqrt().sum() + 0.01 * quadratic(x)


@pytest.mark.parametrize("preconditioner", [torch.eye(WIDTH, dtype=torch.float64), B], ids=["none", "another matrix"])
@pytest.mark.parametrize("function", [quadratic, rosenbrock, softened], ids=lambda function: function.__name__)
def test_it_is_scipys_minimum(function, preconditioner):
    found = minimised(objective(function), lambda X: shaped(preconditioner @ flat(X)), ZERO, Search(1e-9, 400))
    assert found.relative_gradient <= 1e-9
    expected = minimize(
        lambda x: float(function(torch.from_numpy(x))),
        np.zeros(WIDTH),
        jac=lambda x: flat(objective(function)(shaped(torch.from_numpy(x)))[1]).numpy(),
        method="BFGS",
        options={"gtol": 1e-9, "maxiter": 2000},
    )
    np.testing.assert_allclose(flat(found.x), expected.x, atol=1e-6)
    assert found.value == pytest.approx(expected.fun, abs=1e-12)


def test_with_the_inverse_hessian_one_step_is_enough():
    inverse = torch.linalg.inv(A)
    found = minimised(objective(quadratic), lambda X: shaped(inverse @ flat(X)), ZERO, Search(1e-9, 9))
    assert (found.iterations, found.evaluations) == (1, 2)
    torch.testing.assert_close(flat(found.x), torch.linalg.solve(A, V))


def test_it_says_how_far_it_came():
    found = minimised(objective(rosenbrock), dict, ZERO, Search(1e-9, 3))
    assert found.iterations == 3
    gradient = flat(objective(rosenbrock)(found.x)[1])
    first = flat(objective(rosenbrock)(ZERO)[1])
    assert found.relative_gradient == pytest.approx(float(gradient.norm() / first.norm()))
    assert found.relative_gradient > 1e-9


def test_values_that_are_rounded_do_not_keep_it_from_the_minimum():
    """The value is known to 1e-6 alone, of which the whole descent is 1e-4: slopes find the minimum all the same."""
    scale = 1e-4 / float(V @ torch.linalg.solve(A, V))

    def rounded(X):
        value, gradient = objective(lambda x: scale * quadratic(x))(X)
        return round(value, 6), gradient

    found = minimised(rounded, lambda X: {n: x / scale for n, x in X.items()}, ZERO, Search(1e-4, 100))
    assert found.relative_gradient <= 1e-4


def test_where_it_begins_at_the_minimum_it_stays():
    found = minimised(objective(lambda x: x @ A @ x / 2), dict, ZERO, Search(1e-9, 9))
    assert (found.iterations, found.relative_gradient) == (0, 0.0)
