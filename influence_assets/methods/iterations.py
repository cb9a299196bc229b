"""What the methods that solve (G + λI) P = V step by step have in common: their options, passes and records."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from influence_assets.methods.method import MethodContext, MethodOptions, SolverStep

if TYPE_CHECKING:
    from influence_assets.maths.solvers import Checks, Iterate, Vectors


class SolverOptions(MethodOptions):
    """The options of every such method."""

    iterations: int = Field(3, ge=1, description="The number of iterations.")
    budget_passes: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="The most passes over the drawn sequences that a query's iterations may take, from which their "
        "number follows, which is at least one; given instead of `iterations`.",
    )
    sequences: int = Field(512, ge=1, description="About how many training sequences are drawn for G.")
    seed: int = Field(0, ge=0, description="Seed of the draws.")
    stop_below: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="A query stops early once its relative residual, ‖(G + λI)P − V‖ / ‖V‖, is at most this.",
    )

    @model_validator(mode="after")
    def _iterations_or_budget(self) -> Self:
        if self.budget_passes is not None and "iterations" in self.model_fields_set:
            raise ValueError("give either `iterations` or `budget_passes`")
        return self

    def sequences_of_iteration(self, drawn: int) -> int:
        """Return how many sequences an iteration's G is the mean over, of so many that are drawn."""
        return drawn

    def iterations_of(self, drawn: int) -> int:
        """Return the number of iterations, at least one, on so many drawn sequences."""
        if self.budget_passes is None:
            return self.iterations
        return max(1, int(self.budget_passes * drawn / self.sequences_of_iteration(drawn)))


class BatchOptions(SolverOptions):
    """The options of methods whose iterations are on batches."""

    batch: int = Field(32, ge=1, description="Sequences in the batch of an iteration.")
    check_every: int | None = Field(
        None,
        ge=1,
        description="After every so many iterations, and after the last, the residual is measured over all drawn "
        "sequences, which takes one more pass over them each time. If left out, residuals are those of each "
        "iteration's own batch, whose noise is in them.",
    )

    @model_validator(mode="after")
    def _stops_by_checks(self) -> Self:
        if self.stop_below and self.check_every is None:
            raise ValueError("`stop_below` needs `check_every`: the residual of a batch does not tell when to stop")
        return self

    def sequences_of_iteration(self, drawn: int) -> int:
        """Return the size of a batch."""
        return min(self.batch, drawn)

    def checks_of(self, iterations: int, first: int) -> int:
        """Return how often the residual is measured over all drawn sequences.

        Args:
            iterations: how many there are.
            first: the first of them that has a product, before which the residual is known.
        """
        if self.check_every is None:
            return 0
        before = sum(done % self.check_every == 0 for done in range(first, iterations))
        return before + 1

    def checks(self, apply: "Callable[[Vectors], Vectors]") -> "Checks | None":
        """Return when residuals are measured with this matrix."""
        from influence_assets.maths.solvers import Checks

        return None if self.check_every is None else Checks(apply, self.check_every, self.stop_below)


def recorder(
    context: MethodContext, drawn: int, of_iteration: int, *, without_product: int = 0
) -> "Callable[[Iterate], None]":
    """Return what records each iterate with the passes that it took.

    Args:
        context: what the method was given.
        drawn: how many sequences are drawn.
        of_iteration: how many of them one iteration takes.
        without_product: iterations that take none, at the beginning.
    """

    def seen(iterate: "Iterate") -> None:
        context.record(
            SolverStep(
                iteration=iterate.iteration,
                passes=(iterate.iteration - without_product) * of_iteration / drawn,
                sequences=drawn if iterate.is_whole else of_iteration,
                is_measured=iterate.is_measured,
                relative_residual=iterate.relative_residual,
                objective=iterate.objective,
            )
        )

    return seen
