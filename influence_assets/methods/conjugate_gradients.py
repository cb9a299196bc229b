"""Influence functions by conjugate gradients on the exact Gauss-Newton Hessian (Koh & Liang 2017), in nats per copy.

P solves (G + λI) P = V with the G of all layers together, which EK-FAC approximates layer by layer, the damping of each
layer as EK-FAC has it, and EK-FAC's inverse as the preconditioner. G is the mean over a fixed draw of sequences. Few
iterations are best: judged by retraining, later ones fit what G has of noise.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.method import AttributionMethod, MethodContext

if TYPE_CHECKING:
    from torch import Tensor

ITERATIONS = 3
SEQUENCES = 512
SEED = 0


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.solvers import conjugate_gradients

    drawn = context.training.batches(SEQUENCES, 1, most=SEQUENCES, seed=SEED)
    return conjugate_gradients(lambda X: context.damped(X, drawn), context.preconditioned, V, ITERATIONS)


METHOD = AttributionMethod(
    name="conjugate_gradients", unit="nats", prepare=_prepare, needs_curvature=True, reads_training=True
)
