"""EK-FAC's answer, corrected by a few steps on batches of the exact Gauss-Newton Hessian (ASTRA), in nats per copy.

P begins at EK-FAC's (Ĝ + λI)⁻¹ V and moves against the residual, P ← P − α (Ĝ + λI)⁻¹ ((G_b + λI) P − V)
(Wang et al. 2025, arXiv 2507.14740). The step α is as long as is safe: a fraction of 1 over the largest eigenvalue of
(Ĝ + λI)⁻¹ (G + λI), which says by how much EK-FAC understates the curvature where it does so most.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.method import AttributionMethod, MethodContext

if TYPE_CHECKING:
    from torch import Tensor

STEPS, BATCH = 3, 32
SEQUENCES = 512
POWER_ITERATIONS, MARGIN = 8, 1.5
SEED = 0


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.solvers import largest_eigenvalue, refined

    known = context.training.batches(SEQUENCES, 1, most=SEQUENCES, seed=SEED)
    largest = largest_eigenvalue(lambda X: context.preconditioned(context.damped(X, known)), V, POWER_ITERATIONS, SEED)
    batches = context.training.batches(BATCH, STEPS, most=SEQUENCES, seed=SEED)
    return refined(context.damped_by(batches), context.preconditioned, V, 1 / (MARGIN * largest))


METHOD = AttributionMethod(name="astra", unit="nats", prepare=_prepare, needs_curvature=True, reads_training=True)
