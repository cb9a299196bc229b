"""Influence functions by LiSSA's recursion on batches of the Gauss-Newton Hessian (Koh & Liang 2017), in nats per copy.

P = (x_J) / s with x ← V + (I − (G_b + λI) / s) x, the damping of each layer as EK-FAC has it, and s above the largest
eigenvalue. J steps add about s / J to the damping, so that directions of small curvature count for less than they
should.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from influence_assets.methods.iterations import BatchOptions, recorder
from influence_assets.methods.method import AttributionMethod, MethodContext, MethodOptions, Passes

if TYPE_CHECKING:
    from torch import Tensor

POWER_ITERATIONS, MARGIN = 8, 1.5
"""s is this multiple of the largest eigenvalue that so many power iterations find."""


class Options(BatchOptions):
    """The options of LiSSA, whose iterations are many and small."""

    iterations: int = Field(64, ge=1, description="The number of iterations.")
    batch: int = Field(16, ge=1, description="Sequences in the batch of an iteration.")


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.solvers import largest_eigenvalue, neumann

    options, training = context.options_as(Options), context.training
    known = training.batches(options.sequences, 1, most=options.sequences, seed=options.seed)
    drawn = len(known[0])
    scale = MARGIN * largest_eigenvalue(lambda X: context.damped(X, known), V, POWER_ITERATIONS, options.seed)
    steps = options.iterations_of(drawn)
    batches = training.batches(options.batch, steps, most=options.sequences, seed=options.seed)
    return neumann(
        context.damped_by(batches),
        V,
        scale,
        checks=options.checks(lambda X: context.damped(X, known)),
        seen=recorder(context, drawn, len(batches[0]), without_product=1),
    )


def _passes(options: MethodOptions | None, training_sequences: int) -> Passes:
    chosen = options if isinstance(options, Options) else Options()
    drawn = min(chosen.sequences, training_sequences)
    steps = chosen.iterations_of(drawn)
    of_query = (steps - 1) * chosen.sequences_of_iteration(drawn) + chosen.checks_of(steps, 1) * drawn
    return Passes(of_query, of_call=POWER_ITERATIONS * drawn)


METHOD = AttributionMethod(
    name="lissa",
    unit="nats",
    prepare=_prepare,
    needs_curvature=True,
    reads_training=True,
    options=Options,
    passes=_passes,
)
