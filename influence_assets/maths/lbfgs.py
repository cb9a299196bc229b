"""Minimisation by preconditioned L-BFGS (Nocedal & Wright 2006, Algorithms 7.4 and 7.5).

A vector has a matrix for each layer, {layer: [1, d_out, d_in]}, as those of `solvers.py` with one query.

Steps are chosen by the slope along the direction rather than by the value: close to the minimum values differ by less
than they are rounded, while slopes still tell where it is (Hager & Zhang 2005, Sec. 2).
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from influence_assets.maths.solvers import Vectors, inner_products

Objective = Callable[[Vectors], tuple[float, Vectors]]
"""Returns the value at x, and its gradient."""

FLATTER = 0.5
"""A step is long enough once the slope is this share of that at its beginning, or less."""

RISE = 0.1
"""A step is too long if the value rises by more than this share of what the slope promised it would fall."""

ROUNDING = 1e-10
"""Values that differ by less than this share of them are taken for equal."""

TRIES = 20
"""The most evaluations in one direction."""


@dataclass(frozen=True)
class Search:
    """How long a minimum is searched for.

    Args:
        tolerance: it ends once the gradient's norm is at most this share of that at the start.
        iterations: the largest number of steps.
        history: how many of the last steps the curvature is estimated from; each takes the memory of two vectors.
    """

    tolerance: float = 1e-3
    iterations: int = 200
    history: int = 20


@dataclass(frozen=True)
class Minimum:
    """What a minimisation came to.

    Args:
        x: the last point.
        value: the objective there.
        relative_gradient: the norm of the gradient there over that at the start.
        iterations: how many steps were made.
        evaluations: how often the objective was evaluated.
    """

    x: Vectors
    value: float
    relative_gradient: float
    iterations: int
    evaluations: int


@dataclass(frozen=True)
class _Point:
    x: Vectors
    value: float
    gradient: Vectors
    slope: float = 0.0


def minimised(
    objective: Objective,
    precondition: Callable[[Vectors], Vectors],
    start: Mapping[str, Tensor],
    search: Search,
) -> Minimum:
    """Return the minimum of a smooth function, or how far it was approached.

    The first direction is −M ∇J with M the preconditioner; later ones correct M by what the last steps showed of the
    curvature. It ends early if no step along the direction goes down any more, because of rounding.

    Args:
        objective: J; it is called with new vectors, which it may keep.
        precondition: M, symmetric and positive definite, about the inverse of the Hessian; what it is given stays as it
            is.
        start: where to begin.
        search: how long it is searched for.
    """
    counted = 0

    def evaluated(x: Vectors, direction: Vectors | None = None) -> _Point:
        nonlocal counted
        counted += 1
        value, gradient = objective(x)
        return _Point(x, value, gradient, 0.0 if direction is None else _dot(gradient, direction))

    point = evaluated(dict(start))
    first, pairs, done = (
        math.sqrt(_dot(point.gradient, point.gradient)),
        deque[tuple[Vectors, Vectors]](maxlen=search.history),
        0,
    )
    relative = 1.0 if first else 0.0
    while done < search.iterations and relative > search.tolerance:
        direction = _direction(point.gradient, pairs, precondition)
        found = _step(evaluated, point, direction)
        if found is None:
            break
        s, y = (_plus(getattr(found, part), -1.0, getattr(point, part)) for part in ("x", "gradient"))
        if _dot(s, y) > 0:
            pairs.append((s, y))
        point, done = found, done + 1
        relative = math.sqrt(_dot(point.gradient, point.gradient)) / first
    return Minimum(point.x, point.value, relative, done, counted)


def _direction(
    gradient: Vectors, pairs: deque[tuple[Vectors, Vectors]], precondition: Callable[[Vectors], Vectors]
) -> Vectors:
    """Return −H ∇J, with H the L-BFGS estimate of the inverse Hessian (Algorithm 7.4)."""
    q, alphas = gradient, []
    for s, y in reversed(pairs):
        alpha = _dot(s, q) / _dot(s, y)
        alphas.append(alpha)
        q = _plus(q, -alpha, y)
    r = precondition(q)
    if pairs:  # M on the scale of the last step's curvature
        s, y = pairs[-1]
        r = _times(r, _dot(s, y) / _dot(y, precondition(y)))
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r = _plus(r, alpha - _dot(y, r) / _dot(s, y), s)
    return _times(r, -1.0)


def _step(evaluated: Callable[[Vectors, Vectors], _Point], start: _Point, direction: Vectors) -> _Point | None:
    """Return a point along the direction at which the slope is flat enough; None if none is found."""
    slope = _dot(start.gradient, direction)
    if not slope < 0:
        return None
    t, low, slope_at_low, high = 1.0, 0.0, slope, math.inf
    for _ in range(TRIES):
        point = evaluated(_plus(start.x, t, direction), direction)
        risen = point.value - start.value - ROUNDING * abs(start.value)
        if not math.isfinite(point.value) or risen > -RISE * t * slope:
            high, t = t, (low + t) / 2
        elif abs(point.slope) <= FLATTER * abs(slope):
            return point
        elif point.slope < 0:  # it still falls
            bends = point.slope > slope_at_low
            reach = low + (t - low) * slope_at_low / (slope_at_low - point.slope) if bends else math.inf
            low, slope_at_low, t = t, point.slope, min(reach, 4 * t, (t + high) / 2)
        else:
            high, t = t, low + (t - low) * slope_at_low / (slope_at_low - point.slope)
    return None


def _dot(X: Vectors, Y: Vectors) -> float:
    return float(inner_products(X, Y))


def _plus(X: Vectors, factor: float, Y: Vectors) -> Vectors:
    return {name: X[name] + factor * Y[name] for name in X}


def _times(X: Vectors, factor: float) -> Vectors:
    return {name: factor * x for name, x in X.items()}
