"""Iterative solutions of (G + λI) x = v, from products with G alone.

A vector has a matrix for each layer, and each query a vector of its own: {layer: [query, d_out, d_in]}.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

Vectors = dict[str, Tensor]
Product = Callable[[Vectors], Vectors]
"""A symmetric positive definite matrix, applied to every query's vector."""


def conjugate_gradients(
    apply: Product, precondition: Product, V: Mapping[str, Tensor], iterations: int, *, tolerance: float = 0.0
) -> Vectors:
    """Return the solution by preconditioned conjugate gradients (Nocedal & Wright 2006, Algorithm 5.3).

    With no iteration it is zero, with one the best multiple of the preconditioned V. A query whose residual is zero
    stays as it is.

    Args:
        apply: multiplies with G + λI.
        precondition: multiplies with an approximation of its inverse; what it is given stays as it is.
        V: the right-hand sides.
        iterations: the largest number of products.
        tolerance: stops earlier, once the residual of every query is at most this share of its right-hand side.
    """
    P = {name: torch.zeros_like(v) for name, v in V.items()}
    r = {name: v.clone() for name, v in V.items()}
    y = precondition(r)
    p, ry = y, inner_products(r, y)
    for done in range(1, iterations + 1):
        Ap = apply(p)
        step = _ratio(ry, inner_products(p, Ap))
        P = _plus(P, step, p)
        if done == iterations or not bool(ry.abs().max()):
            break
        r = _plus(r, -step, Ap)
        if tolerance and bool((inner_products(r, r) <= tolerance**2 * inner_products(V, V)).all()):
            break
        y = precondition(r)
        before, ry = ry, inner_products(r, y)
        p = _plus(y, _ratio(ry, before), p)
    return P


def neumann(batches: "list[Product]", V: Mapping[str, Tensor], scale: float) -> Vectors:
    """Return the solution by LiSSA's recursion x ← V + (I − (G_b + λI) / s) x, divided by s (Agarwal et al. 2017).

    After J steps this is (I − (I − (G + λI)/s)^J) (G + λI)⁻¹ V in expectation: in a direction of eigenvalue σ it
    falls short by the factor (1 − σ/s)^J, as if about s/J were added to the damping.

    Args:
        batches: for each step, multiplies with G_b + λI of a batch.
        V: the right-hand sides.
        scale: s, more than half of every batch's largest eigenvalue, or the recursion grows without bound.
    """
    x = {name: v.clone() for name, v in V.items()}
    for apply in batches[1:]:
        product = apply(x)
        x = {name: V[name] + x[name] - product[name] / scale for name in x}
    return {name: value / scale for name, value in x.items()}


def refined(batches: "list[Product]", precondition: Product, V: Mapping[str, Tensor], step: float) -> Vectors:
    """Return x ← x − α M ((G_b + λI) x − V), begun at x = M V, with M the preconditioner (ASTRA, Wang et al. 2025).

    Args:
        batches: for each step, multiplies with G_b + λI of a batch.
        precondition: M; what it is given stays as it is.
        V: the right-hand sides.
        step: α.
    """
    x = precondition(dict(V))
    for apply in batches:
        product = apply(x)
        correction = precondition({name: product[name] - V[name] for name in x})
        x = {name: x[name] - step * correction[name] for name in x}
    return x


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
        x = {name: value / norm[:, None, None] for name, value in x.items()}
        product = apply(x)
        found = float(inner_products(x, product).max())
        x = product
    return found


def inner_products(X: Mapping[str, Tensor], Y: Mapping[str, Tensor]) -> Float[Tensor, " query"]:
    """Return ⟨X, Y⟩ of each query over all layers, in float64."""
    return torch.stack([(X[name].double() * Y[name].double()).sum((1, 2)) for name in X]).sum(0)


def _plus(X: Mapping[str, Tensor], factor: Tensor, Y: Mapping[str, Tensor]) -> Vectors:
    return {name: X[name] + factor.to(X[name])[:, None, None] * Y[name] for name in X}


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / torch.where(b > 0, b, torch.ones_like(b)), torch.zeros_like(a))
