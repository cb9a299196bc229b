"""Iterative solvers against a dense one."""

import pytest
import torch

from influence_assets.maths.solvers import (
    Checks,
    conjugate_gradients,
    inner_products,
    largest_eigenvalue,
    neumann,
    refined,
)

SHAPES = {"first": (3, 4), "second": (2, 5)}
WIDTH = sum(rows * columns for rows, columns in SHAPES.values())
QUERIES = 4


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix(seed=1, damping=0.5):
    X = random(WIDTH, 2 * WIDTH, seed=seed)
    return X @ X.T / (2 * WIDTH) + damping * torch.eye(WIDTH, dtype=torch.float64)


def flat(X):
    return torch.cat([value.flatten(1) for value in X.values()], 1)


def shaped(x):
    parts = x.split([rows * columns for rows, columns in SHAPES.values()], 1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def times(M):
    return lambda X: shaped(flat(X) @ M.T)


V = shaped(random(QUERIES, WIDTH, seed=2))


def test_conjugate_gradients_solve_the_system():
    M = matrix()
    solved = conjugate_gradients(times(M), lambda X: X, V, WIDTH)
    torch.testing.assert_close(flat(solved), torch.linalg.solve(M, flat(V).T).T, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_each_iteration_is_best_in_its_krylov_space(iterations):
    """In the norm of the matrix, over all combinations of M⁻¹V, M⁻¹A M⁻¹V, …, found by least squares."""
    A, M = matrix(), matrix(seed=3)
    inverse = torch.linalg.inv(M)
    solved = flat(conjugate_gradients(times(A), times(inverse), V, iterations))
    half = torch.linalg.cholesky(A).T
    for query, v in enumerate(flat(V)):
        space = [inverse @ v]
        for _ in range(iterations - 1):
            space.append(inverse @ (A @ space[-1]))
        K = torch.stack(space, 1)
        best = K @ torch.linalg.lstsq(half @ K, half @ torch.linalg.solve(A, v)[:, None]).solution[:, 0]
        torch.testing.assert_close(solved[query], best, rtol=1e-7, atol=1e-9)


def test_with_the_inverse_itself_one_iteration_is_enough():
    M = matrix()
    solved = conjugate_gradients(times(M), times(torch.linalg.inv(M)), V, 1)
    torch.testing.assert_close(flat(solved), torch.linalg.solve(M, flat(V).T).T)


def test_no_iteration_is_zero_and_a_query_without_a_gradient_stays_there():
    assert not flat(conjugate_gradients(times(matrix()), lambda X: X, V, 0)).any()
    some = shaped(torch.cat([flat(V)[:1], torch.zeros(1, WIDTH, dtype=torch.float64)]))
    solved = flat(conjugate_gradients(times(matrix()), lambda X: X, some, WIDTH))
    assert solved[0].any()
    assert not solved[1].any()
    assert solved.isfinite().all()


@pytest.mark.parametrize("steps", [1, 7, 4000])
def test_lissa_falls_short_by_what_its_docstring_says(steps):
    M, scale = matrix(), 4.0
    found = flat(neumann([times(M)] * steps, V, scale))
    identity = torch.eye(WIDTH, dtype=torch.float64)
    short = identity - torch.linalg.matrix_power(identity - M / scale, steps)
    torch.testing.assert_close(found, (short @ torch.linalg.solve(M, flat(V).T)).T, rtol=1e-8, atol=1e-10)
    if steps == 4000:
        torch.testing.assert_close(found, torch.linalg.solve(M, flat(V).T).T, rtol=1e-6, atol=1e-8)


def test_lissa_over_batches_is_right_in_the_mean():
    batches = [matrix(seed=seed) for seed in range(10)]
    mean, scale, steps = torch.stack(batches).mean(0), 6.0, 40
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(400):
        drawn = torch.randint(0, len(batches), (steps,), generator=generator)
        runs.append(flat(neumann([times(batches[index]) for index in drawn], V, scale)))
    found, error = torch.stack(runs).mean(0), torch.stack(runs).std(0) / 20
    identity = torch.eye(WIDTH, dtype=torch.float64)
    short = identity - torch.linalg.matrix_power(identity - mean / scale, steps)
    expected = (short @ torch.linalg.solve(mean, flat(V).T)).T
    assert ((found - expected).abs() < 5 * error + 1e-9).double().mean() > 0.98


def test_refinement_moves_from_the_preconditioned_answer_to_the_solution():
    A, M = matrix(), matrix(seed=3)
    inverse = torch.linalg.inv(M)
    torch.testing.assert_close(flat(refined([], times(inverse), V, 0.3)), flat(V) @ inverse)
    expected = flat(V) @ inverse
    expected = expected - 0.3 * ((expected @ A - flat(V)) @ inverse)
    torch.testing.assert_close(flat(refined([times(A)], times(inverse), V, 0.3)), expected)
    found = flat(refined([times(A)] * 500, times(inverse), V, 0.3))
    torch.testing.assert_close(found, torch.linalg.solve(A, flat(V).T).T, rtol=1e-6, atol=1e-8)


def test_the_largest_eigenvalue_is_approached_from_below():
    M = matrix()
    largest = float(torch.linalg.eigvalsh(M)[-1])
    assert largest_eigenvalue(times(M), V, 3, 0) < largest
    assert largest_eigenvalue(times(M), V, 400, 0) == pytest.approx(largest, rel=1e-6)


def test_inner_products_are_over_all_layers():
    torch.testing.assert_close(inner_products(V, V), flat(V).square().sum(1))


def test_what_is_given_stays_as_it_is():
    before = {name: value.clone() for name, value in V.items()}
    M = matrix()
    for solve in (
        lambda: conjugate_gradients(times(M), times(torch.linalg.inv(M)), V, 3),
        lambda: neumann([times(M)] * 3, V, 4.0),
        lambda: refined([times(M)] * 3, times(torch.linalg.inv(M)), V, 0.3),
    ):
        solve()
        assert all(torch.equal(V[name], value) for name, value in before.items())


def measured(A, x):
    """‖A x − v‖ / ‖v‖ and ½ xᵀA x − vᵀx of each query."""
    v = flat(V)
    return (x @ A - v).norm(dim=1) / v.norm(dim=1), (x * (x @ A)).sum(1) / 2 - (x * v).sum(1)


def test_conjugate_gradients_tell_how_far_each_iterate_is():
    A, inverse = matrix(), torch.linalg.inv(matrix(seed=3))
    found = []
    conjugate_gradients(times(A), times(inverse), V, 6, seen=found.append)
    assert [iterate.iteration for iterate in found] == [1, 2, 3, 4, 5, 6]
    for iterate in found:
        x = flat(conjugate_gradients(times(A), times(inverse), V, iterate.iteration))
        residual, objective = measured(A, x)
        assert iterate.is_measured.all()
        torch.testing.assert_close(iterate.relative_residual, residual, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(iterate.objective, objective)
    objectives = torch.stack([iterate.objective for iterate in found])
    assert (objectives.diff(dim=0) < 0).all(), "each iteration lowers it, though not always the residual"


@pytest.mark.parametrize("whole", [False, True], ids=["by the next batch", "by the whole matrix"])
@pytest.mark.parametrize("method", ["neumann", "refined"])
def test_iterations_on_batches_tell_how_far_each_iterate_is(method, whole):
    batches, A = [matrix(seed=seed) for seed in range(5)], matrix(seed=9)
    inverse = times(torch.linalg.inv(matrix(seed=3)))

    def solve(count, **watched):
        some = [times(batch) for batch in batches[:count]]
        return neumann(some, V, 6.0, **watched) if method == "neumann" else refined(some, inverse, V, 0.3, **watched)

    found = []
    solve(5, checks=Checks(times(A), 2) if whole else None, seen=found.append)
    expected = {("neumann", False): [1, 2, 3, 4], ("refined", False): [0, 1, 2, 3, 4]}
    expected |= {("neumann", True): [2, 4, 5], ("refined", True): [0, 2, 4, 5]}
    assert [iterate.iteration for iterate in found] == expected[method, whole]
    for iterate in found:
        assert iterate.is_whole == whole
        residual, objective = measured(A if whole else batches[iterate.iteration], flat(solve(iterate.iteration)))
        torch.testing.assert_close(iterate.relative_residual, residual)
        torch.testing.assert_close(iterate.objective, objective)


@pytest.mark.parametrize(("method", "near"), [("conjugate gradients", 1e-3), ("neumann", 0.02), ("refined", 0.02)])
def test_a_query_that_is_near_enough_stays_as_it_is_and_is_multiplied_no_more(method, near):
    A, inverse, multiplied = matrix(), times(torch.linalg.inv(matrix(seed=3))), []

    def apply(X):
        multiplied.append(len(flat(X)))
        return times(A)(X)

    def solve(queries, most, stop_below=0.0, seen=lambda _iterate: None):
        v = shaped(flat(V)[queries])
        if method == "conjugate gradients":
            return flat(conjugate_gradients(apply, inverse, v, most, stop_below=stop_below, seen=seen))
        batches, checks = [apply] * most, Checks(times(A), 1, stop_below) if stop_below else None
        if method == "neumann":
            return flat(neumann(batches, v, 4.0, checks=checks, seen=seen))
        return flat(refined(batches, inverse, v, 0.3, checks=checks, seen=seen))

    found, every = [], slice(None)
    stopped = solve(every, 60, near, found.append)
    residuals = torch.stack([iterate.relative_residual for iterate in found])
    last = [max(i.iteration for i in found if i.is_measured[query]) for query in range(QUERIES)]
    assert len(set(last)) > 1, "they do not stop together"
    first = found[0].iteration
    for query, iteration in enumerate(last):
        assert residuals[iteration - first, query] <= near < residuals[: iteration - first, query].min()
        alone = solve(slice(query, query + 1), iteration)[0]
        torch.testing.assert_close(stopped[query], alone)
    multiplied.clear()
    solve(every, 60, near)
    products = sum(last) if method != "neumann" else sum(last) - QUERIES
    assert sum(multiplied) == products


def test_what_is_in_single_precision_stays_in_it():
    """Norms and inner products are in float64, and must not carry the vectors along."""

    A = matrix().float()

    def single(X):
        assert {value.dtype for value in X.values()} == {torch.float32}
        return shaped(flat(X) @ A)

    v = {name: value.float() for name, value in V.items()}
    checks = Checks(single, 1, 1e-3)
    step = 1 / largest_eigenvalue(single, v, 30, 0)
    found = [
        conjugate_gradients(single, single, v, 3, stop_below=0.1),
        neumann([single] * 3, v, 4.0, checks=checks),
        refined([single] * 3, single, v, step, checks=checks),
    ]
    assert {value.dtype for P in found for value in P.values()} == {torch.float32}
