"""Influence functions by conjugate gradients on the exact Gauss-Newton Hessian (Koh & Liang 2017), in nats per copy.

P solves (G + λI) P = V with the G of all layers together, which EK-FAC approximates layer by layer, the damping of each
layer as EK-FAC has it, and EK-FAC's inverse as the preconditioner. G is the mean over a fixed draw of sequences. Few
iterations are best: judged by retraining, later ones fit what G has of noise.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.iterations import SolverOptions, recorder
from influence_assets.methods.method import AttributionMethod, MethodContext, MethodOptions, Passes

if TYPE_CHECKING:
    from torch import Tensor


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.solvers import conjugate_gradients

    options = context.options_as(SolverOptions)
    drawn = context.training.batches(options.sequences, 1, most=options.sequences, seed=options.seed)
    count = len(drawn[0])
    return conjugate_gradients(
        lambda X: context.damped(X, drawn),
        context.preconditioned,
        V,
        options.iterations_of(count),
        stop_below=options.stop_below,
        seen=recorder(context, count, count),
    )


def _passes(options: MethodOptions | None, training_sequences: int) -> Passes:
    chosen = options if isinstance(options, SolverOptions) else SolverOptions()
    drawn = min(chosen.sequences, training_sequences)
    return Passes(chosen.iterations_of(drawn) * drawn)


METHOD = AttributionMethod(
    name="conjugate_gradients",
    unit="nats",
    prepare=_prepare,
    needs_curvature=True,
    reads_training=True,
    options=SolverOptions,
    passes=_passes,
)
