"""A made-up method with products of the Hessian, added from this one file: P = (G + λI)⁻¹ V by conjugate gradients.

G is the exact Gauss-Newton Hessian of all layers together, λ each layer's own damping, and EK-FAC's inverse the
preconditioner (Nocedal & Wright 2006, Alg. 5.3).
"""

import math

from influence_assets.methods.method import AttributionMethod

TOLERANCE = 1e-7
ITERATIONS = 200


def prepare(V, context):
    layers = context.curvature

    def damped(X):
        return {name: product + layers[name].λ * X[name] for name, product in hessian(X).items()}

    def hessian(X):
        return context.gauss_newton(X, context.training.all())

    def preconditioned(X):
        return {name: X[name] / (layer.Λ + layer.λ) for name, layer in layers.items()}

    P = {name: v.new_zeros(v.shape) for name, v in V.items()}
    r = {name: v.clone() for name, v in V.items()}
    y = preconditioned(r)
    p, ry = y, dot(r, y)
    for _ in range(ITERATIONS):
        Ap = damped(p)
        step = ry / dot(p, Ap)
        P = plus(P, step, p)
        r = plus(r, -step, Ap)
        if math.sqrt(float((dot(r, r) / dot(V, V)).max())) < TOLERANCE:
            return P
        y = preconditioned(r)
        before, ry = ry, dot(r, y)
        p = plus(y, ry / before, p)
    raise ValueError(f"no solution after {ITERATIONS} iterations: raise the damping")


def dot(X, Y):
    """The inner product of each query over all layers."""
    return sum((X[name] * Y[name]).sum((1, 2)) for name in X)


def plus(X, factor, Y):
    return {name: X[name] + factor[:, None, None] * Y[name] for name in X}


METHOD = AttributionMethod(
    name="conjugate_gradient", unit="nats", prepare=prepare, needs_curvature=True, reads_training=True
)
