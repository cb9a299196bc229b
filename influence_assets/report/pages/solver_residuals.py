"""The picture of how near methods come to the solution of (G + λI) P = V, by the passes that they take."""

from typing import Any

import polars as pl

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact

TABLE = "solver_residuals"


def draw(artifact: Artifact) -> bytes | None:
    """Draw the residuals that an artifact of `method_vectors` holds; None if no method solves step by step."""
    if TABLE not in artifact.manifest.rows:
        return None
    from influence_assets.report.charts import png

    return png(chart(artifact.table(TABLE).collect()))


def chart(residuals: pl.DataFrame) -> Any:
    """Return a chart of the median relative residual over queries, with the quartiles, by method.

    Residuals that are measured over a batch, rather than over all sequences that were drawn, are dashed.

    Args:
        residuals: `query_id`, `method`, `iteration`, `passes`, `sequences` and `relative_residual`.
    """
    import altair as alt

    from influence_assets.report.charts import HEIGHT, LOGARITHMIC, WIDTH

    residual = pl.col("relative_residual")
    rows = (
        residuals.filter(residual > 0)  # a logarithm of 0 cannot be drawn
        .group_by("method", "iteration", "passes", "sequences", maintain_order=True)
        .agg(
            median=residual.median(),
            low=residual.quantile(0.25, interpolation="linear"),
            high=residual.quantile(0.75, interpolation="linear"),
        )
        .sort("method", "iteration")
    )
    base = alt.Chart(rows).encode(
        x=alt.X("passes:Q", title="passes over the drawn sequences"),
        color=alt.Color("method:N", title=None),
        detail="sequences:N",
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("median:Q", title="relative residual", **LOGARITHMIC),
        strokeDash=alt.StrokeDash("sequences:O", title="sequences measured over", sort="descending"),
    )
    return (base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q") + line).properties(width=WIDTH, height=HEIGHT)


PAGE = Page(
    name="solver_residuals", title="How near methods come to the exact solution", asset="method_vectors", draw=draw
)
