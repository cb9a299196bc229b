"""The layout of what methods prepare of query gradients beforehand: P in full, and how near to a solution it is.

Arrays `layer.method` [query, d_out, d_in] are P. Methods that solve for P step by step leave rows of the table
`solver_residuals`, one for each query and iteration that is measured; without such methods there is no table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import polars as pl
import torch

from influence_assets.capture.gradients import QueryOuterProducts
from influence_assets.capture.runner import Runner
from influence_assets.engine.definition import Work
from influence_assets.layouts.factors import bases_of
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.maths.curvature import Curvature
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.methods.method import AttributionMethod, MethodContext, SolverStep, TrainingSequences
from influence_assets.methods.registry import methods_in_full


class PreparedMethods:
    """A writer of P of the methods whose P is stored, chunk after chunk.

    Args:
        work: the work for the query set.
        runner: runs the model.
        curvature: the curvature of every layer.
        query_ids: the ids of the set's queries.
    """

    def __init__(
        self, work: Work, runner: Runner, curvature: Mapping[str, Curvature], query_ids: Sequence[str]
    ) -> None:
        self._work = work
        self._runner = runner
        self._curvature = curvature
        self._query_ids = query_ids
        self._done = 0
        self._residuals: list[pl.DataFrame] = []
        dtype = str(accumulation_dtype(runner.dtype)).removeprefix("torch.")
        self._arrays = {
            (method, name): work.draft.mappable_array(f"{name}.{method.name}", (len(query_ids), *layer.shape), dtype)
            for method in methods_in_full(work.study)
            for name, layer in curvature.items()
        }

    def append(self, gradients: QueryOuterProducts) -> None:
        """Prepare and write P of the next queries."""
        ids = self._query_ids[self._done : self._done + len(gradients.log_probabilities)]
        self._done += len(ids)
        for method in methods_in_full(self._work.study):
            V = {
                name: torch.stack([products.sum() for products in of_layer])
                for name, of_layer in gradients.layers.items()
            }
            for name, P in method.prepare(V, self._context(method, ids)).items():
                self._arrays[method, name].append(P.cpu().numpy())

    def finish(self) -> None:
        """Write the residuals of methods that solve for P step by step."""
        if self._residuals:
            rows = pl.concat(self._residuals)
            self._work.draft.table("solver_residuals", rows.sort("method", "query_id", "iteration"))

    def _context(self, method: AttributionMethod, query_ids: Sequence[str]) -> MethodContext:
        shards = self._work.open_all("token_sequences") if method.reads_training else []
        return MethodContext(
            replace(self._runner, progress=lambda _count: None),  # its passes must not count as progress
            bases_of(self._curvature),
            self._curvature if method.needs_curvature else {},
            TrainingSequences([partial(shard_sequences, shard) for shard in shards]),
            record=lambda step: self._residuals.append(residual_rows(method.name, query_ids, step)),
        )


def residual_rows(method: str, query_ids: Sequence[str], step: SolverStep) -> pl.DataFrame:
    """Return the rows of `solver_residuals` of the queries that a step measures.

    Args:
        method: the method's name.
        query_ids: the queries that the step is of, in its order.
        step: what was measured.
    """
    rows = step.is_measured.nonzero()[:, 0].tolist()
    relative, objective = step.relative_residual.tolist(), step.objective.tolist()
    return pl.DataFrame(
        {
            "query_id": [query_ids[row] for row in rows],
            "method": [method] * len(rows),
            "iteration": [step.iteration] * len(rows),
            "passes": [step.passes] * len(rows),
            "sequences": [step.sequences] * len(rows),
            "relative_residual": [relative[row] for row in rows],
            "objective": [objective[row] for row in rows],
        },
        schema={
            "query_id": pl.String,
            "method": pl.String,
            "iteration": pl.Int32,
            "passes": pl.Float64,
            "sequences": pl.Int64,
            "relative_residual": pl.Float64,
            "objective": pl.Float64,
        },
    )
