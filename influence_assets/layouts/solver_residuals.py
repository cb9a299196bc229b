"""The layout of what methods record that solve for P step by step: the table `solver_residuals`.

It has one row for each query and iteration that is measured; without such methods there is no table.
"""

from collections.abc import Sequence

import polars as pl

from influence_assets.methods.method import SolverStep

TABLE = "solver_residuals"


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
