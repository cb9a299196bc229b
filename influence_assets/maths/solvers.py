"""Iterative solutions of (G + λI) x = v, from products with G alone.

A vector has a matrix for each layer, and each query a vector of its own: {layer: [query, d_out, d_in]}.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Vectors = dict[str, Tensor]
Product = Callable[[Vectors], Vectors]
"""A symmetric positive definite matrix, applied to every query's vector."""


@dataclass(frozen=True)
class Iterate:
    """How far x of each query is from the solution of A x = v, A = G + λI.

    Args:
        iteration: how many iterations x has behind it.
        is_measured: the queries that the figures are of; the others were near enough before.
        relative_residual: ‖A x − v‖ / ‖v‖ over all layers.
        objective: ½ xᵀA x − vᵀx, which the solution minimises.
        is_whole: whether A is all of the matrix, rather than that of the next iteration's batch, whose noise is in the
            residual, too.
    """

    iteration: int
    is_measured: Bool[Tensor, " query"]
    relative_residual: Float[Tensor, " query"]
    objective: Float[Tensor, " query"]
    is_whole: bool = True


Seen = Callable[[Iterate], None]


@dataclass(frozen=True)
class Checks:
    """When the residuals of an iteration on batches are measured against the whole matrix.

    Args:
        apply: multiplies with the whole matrix.
        every: after how many iterations; also after the last.
        stop_below: a query whose relative residual is at most this stays as it is.
    """

    apply: Product
    every: int
    stop_below: float = 0.0


def conjugate_gradients(
    apply: Product,
    precondition: Product,
    V: Mapping[str, Tensor],
    iterations: int,
    *,
    stop_below: float = 0.0,
    seen: Seen = lambda _iterate: None,
) -> Vectors:
    """Return the solution by preconditioned conjugate gradients (Nocedal & Wright 2006, Algorithm 5.3).

    With no iteration it is zero, with one the best multiple of the preconditioned V. Residuals come with the recursion.

    Args:
        apply: multiplies with G + λI.
        precondition: multiplies with an approximation of its inverse; what it is given stays as it is.
        V: the right-hand sides.
        iterations: the largest number of products.
        stop_below: a query whose relative residual is at most this stays as it is, and is multiplied no more.
        seen: called after each iteration.
    """
    P = {name: torch.zeros_like(v) for name, v in V.items()}
    r = {name: v.clone() for name, v in V.items()}
    y = precondition(r)
    p, ry = y, inner_products(r, y)
    lengths = _lengths(V)
    goes_on = lengths > 0
    for iteration in range(1, iterations + 1):
        goes_on = goes_on & (_lengths(r) > stop_below * lengths)
        if not bool(goes_on.any()):
            break
        Ap = _applied(apply, p, goes_on)
        step = _ratio(ry, inner_products(p, Ap))  # 0 where Ap is
        P = _plus(P, step, p)
        r = _plus(r, -step, Ap)
        seen(Iterate(iteration, goes_on, _lengths(r) / lengths, -(inner_products(P, V) + inner_products(P, r)) / 2))
        if iteration < iterations:
            y = precondition(r)
            before, ry = ry, inner_products(r, y)
            p = _plus(y, _ratio(ry, before), p)
    return P


def neumann(
    batches: Sequence[Product],
    V: Mapping[str, Tensor],
    scale: float,
    *,
    checks: Checks | None = None,
    seen: Seen = lambda _iterate: None,
) -> Vectors:
    """Return the solution by LiSSA's recursion x ← V + (I − (G_b + λI) / s) x, divided by s (Agarwal et al. 2017).

    After J steps this is (I − (I − (G + λI)/s)^J) (G + λI)⁻¹ V in expectation: in a direction of eigenvalue σ it
    falls short by the factor (1 − σ/s)^J, as if about s/J were added to the damping.

    Args:
        batches: for each step, multiplies with G_b + λI of a batch; the first step needs none.
        V: the right-hand sides.
        scale: s, more than half of every batch's largest eigenvalue, or the recursion grows without bound.
        checks: when residuals are measured against the whole matrix; None: against that of the next step's batch.
        seen: called with what is measured.
    """
    start = {name: v / scale for name, v in V.items()}
    return _iterated(batches[1:], V, start, lambda x, r: _plus(x, 1 / scale, r), 1, checks, seen)


def refined(  # keywords
    batches: Sequence[Product],
    precondition: Product,
    V: Mapping[str, Tensor],
    step: float,
    *,
    checks: Checks | None = None,
    seen: Seen = lambda _iterate: None,
) -> Vectors:
    """Return x ← x − α M ((G_b + λI) x − V), begun at x = M V, with M the preconditioner (ASTRA, Wang et al. 2025).

    Args:
        batches: for each step, multiplies with G_b + λI of a batch.
        precondition: M; what it is given stays as it is.
        V: the right-hand sides.
        step: α.
        checks: when residuals are measured against the whole matrix; None: against that of the next step's batch.
        seen: called with what is measured.
    """
    return _iterated(batches, V, precondition(dict(V)), lambda x, r: _plus(x, step, precondition(r)), 0, checks, seen)


def _iterated(  # noqa: PLR0913
    batches: Sequence[Product],
    V: Mapping[str, Tensor],
    x: Vectors,
    advance: Callable[[Vectors, Vectors], Vectors],
    done: int,
    checks: Checks | None,
    seen: Seen,
) -> Vectors:
    """Return x advanced by its residual V − A_b x with each batch's matrix A_b.

    Args:
        batches: each multiplies with its A_b.
        V: the right-hand sides.
        x: where it begins.
        advance: returns the next x, given x and its residual; that of a residual 0 is x.
        done: how many iterations x has behind it.
        checks: as in `neumann`.
        seen: as in `neumann`.
    """
    goes_on = _lengths(V) > 0
    for apply in batches:
        if checks is not None and done % checks.every == 0:
            goes_on = goes_on & _is_far(x, V, done, goes_on, checks, seen)
        if not bool(goes_on.any()):
            return x
        product = _applied(apply, x, goes_on)
        residual = {name: (V[name] - product[name]) * goes_on.to(V[name])[:, None, None] for name in V}
        if checks is None:
            seen(_iterate(done, goes_on, x, V, residual, is_whole=False))
        x = advance(x, residual)
        done += 1
    if checks is not None and bool(goes_on.any()):
        _is_far(x, V, done, goes_on, checks, seen)
    return x


def _is_far(x: Vectors, V: Mapping[str, Tensor], done: int, goes_on: Tensor, checks: Checks, seen: Seen) -> Tensor:
    """Measure the residuals against the whole matrix, and return which are above `stop_below`."""
    product = _applied(checks.apply, x, goes_on)
    iterate = _iterate(done, goes_on, x, V, {name: V[name] - product[name] for name in V}, is_whole=True)
    seen(iterate)
    return iterate.relative_residual > checks.stop_below


def _iterate(
    done: int, goes_on: Tensor, x: Vectors, V: Mapping[str, Tensor], residual: Vectors, *, is_whole: bool
) -> Iterate:
    relative = _lengths(residual) / _lengths(V)
    return Iterate(done, goes_on, relative, -(inner_products(x, V) + inner_products(x, residual)) / 2, is_whole)


def largest_eigenvalue(apply: Product, like: Mapping[str, Tensor], iterations: int, seed: int) -> float:
    """Return an estimate of the largest eigenvalue by power iteration; it is never too large.

    Args:
        apply: multiplies with the matrix.
        like: vectors of the right shapes, of which one is drawn.
        iterations: the number of products, one vector each.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    x = {name: torch.randn(v[:1].shape, generator=generator, dtype=torch.float64).to(v) for name, v in like.items()}
    found = 0.0
    for _ in range(iterations):
        norm = inner_products(x, x).sqrt()
        x = {name: value / norm.to(value)[:, None, None] for name, value in x.items()}
        product = apply(x)
        found = float(inner_products(x, product).max())
        x = product
    return found


def inner_products(X: Mapping[str, Tensor], Y: Mapping[str, Tensor]) -> Float[Tensor, " query"]:
    """Return ⟨X, Y⟩ of each query over all layers, in float64."""
    return torch.stack([(X[name].double() * Y[name].double()).sum((1, 2)) for name in X]).sum(0)


def _lengths(X: Mapping[str, Tensor]) -> Float[Tensor, " query"]:
    return inner_products(X, X).sqrt()


def _applied(apply: Product, X: Vectors, goes_on: Bool[Tensor, " query"]) -> Vectors:
    """Return the product of the queries that go on, and 0 for the others, which are not multiplied."""
    if bool(goes_on.all()):
        return apply(X)
    rows = goes_on.nonzero()[:, 0]
    product = apply({name: x[rows.to(x.device)] for name, x in X.items()})
    zeros = {name: torch.zeros_like(x) for name, x in X.items()}
    return {name: zero.index_copy_(0, rows.to(zero.device), product[name]) for name, zero in zeros.items()}


def _plus(X: Mapping[str, Tensor], factor: Tensor | float, Y: Mapping[str, Tensor]) -> Vectors:
    if isinstance(factor, float):
        return {name: X[name] + factor * Y[name] for name in X}
    return {name: X[name] + factor.to(X[name])[:, None, None] * Y[name] for name in X}


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, torch.ones_like(b)), torch.zeros_like(a))
