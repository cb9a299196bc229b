"""Influence functions by LiSSA's recursion on batches of the Gauss-Newton Hessian (Koh & Liang 2017), in nats per copy.

P = (x_J) / s with x ← V + (I − (G_b + λI) / s) x, the damping of each layer as EK-FAC has it, and s above the largest
eigenvalue. J steps add about s / J to the damping, so that directions of small curvature count for less than they
should.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.method import AttributionMethod, MethodContext

if TYPE_CHECKING:
    from torch import Tensor

STEPS, BATCH = 64, 16
SEQUENCES = 512
POWER_ITERATIONS, MARGIN = 8, 1.5
"""s is this multiple of the largest eigenvalue that so many power iterations find."""

SEED = 0


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.solvers import largest_eigenvalue, neumann

    training = context.training
    known = training.batches(SEQUENCES, 1, most=SEQUENCES, seed=SEED)
    scale = MARGIN * largest_eigenvalue(lambda X: context.damped(X, known), V, POWER_ITERATIONS, SEED)
    batches = training.batches(BATCH, STEPS, most=SEQUENCES, seed=SEED)
    return neumann(context.damped_by(batches), V, scale)


METHOD = AttributionMethod(name="lissa", unit="nats", prepare=_prepare, needs_curvature=True, reads_training=True)
