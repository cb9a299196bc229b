"""EK-FAC's answer, corrected by a few steps on batches of the exact Gauss-Newton Hessian (ASTRA), in nats per copy.

P begins at EK-FAC's (Ĝ + λI)⁻¹ V and moves against the residual, P ← P − α (Ĝ + λI)⁻¹ ((G_b + λI) P − V)
(Wang et al. 2025, arXiv 2507.14740). The step α is as long as is safe: a fraction of 1 over the largest eigenvalue of
(Ĝ + λI)⁻¹ (G + λI), which says by how much EK-FAC understates the curvature where it does so most.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.iterations import BatchOptions, recorder
from influence_assets.methods.method import AttributionMethod, MethodContext, MethodOptions, Passes

if TYPE_CHECKING:
    from torch import Tensor

POWER_ITERATIONS, MARGIN = 8, 1.5


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.solvers import largest_eigenvalue, refined

    options, training = context.options_as(BatchOptions), context.training
    known = training.batches(options.sequences, 1, most=options.sequences, seed=options.seed)
    drawn = len(known[0])
    largest = largest_eigenvalue(
        lambda X: context.preconditioned(context.damped(X, known)), V, POWER_ITERATIONS, options.seed
    )
    steps = options.iterations_of(drawn)
    batches = training.batches(options.batch, steps, most=options.sequences, seed=options.seed)
    return refined(
        context.damped_by(batches),
        context.preconditioned,
        V,
        1 / (MARGIN * largest),
        checks=options.checks(lambda X: context.damped(X, known)),
        seen=recorder(context, drawn, len(batches[0])),
    )


def _passes(options: MethodOptions | None, training_sequences: int) -> Passes:
    chosen = options if isinstance(options, BatchOptions) else BatchOptions()
    drawn = min(chosen.sequences, training_sequences)
    steps = chosen.iterations_of(drawn)
    of_query = steps * chosen.sequences_of_iteration(drawn) + chosen.checks_of(steps, 0) * drawn
    return Passes(of_query, of_call=POWER_ITERATIONS * drawn)


METHOD = AttributionMethod(
    name="astra",
    unit="nats",
    prepare=_prepare,
    needs_curvature=True,
    reads_training=True,
    options=BatchOptions,
    passes=_passes,
)
