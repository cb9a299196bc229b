"""The picture of how far each method's scores are borne out by retraining, with intervals and the ceiling."""

from typing import Any

import polars as pl

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact

ALL_QUERIES = "all queries"


def draw(artifact: Artifact) -> bytes:
    """Draw the linear datamodeling scores that an artifact of `evaluations` holds."""
    from influence_assets.report.charts import png

    return png(chart(artifact.table("evaluations").filter(pl.col("figure") == "lds").collect()))


def chart(scores: pl.DataFrame) -> Any:
    """Return a chart with a row for each method and a column for all queries and for each query set.

    Args:
        scores: `method`, `query_set_id` (null for all queries), `value`, `low` and `high`.
    """
    import altair as alt

    rows = scores.with_columns(queries=pl.col("query_set_id").fill_null(ALL_QUERIES))
    sets = [ALL_QUERIES, *sorted(rows["query_set_id"].drop_nulls().unique())]
    order = rows.filter(pl.col("query_set_id").is_null()).sort("value", descending=True)["method"].to_list()
    method = alt.Y("method:N", sort=order, title=None)
    base = alt.Chart(rows)
    return (
        (
            base.mark_rule().encode(
                x=alt.X("low:Q", title="linear datamodeling score", scale=alt.Scale(zero=False)), x2="high:Q", y=method
            )
            + base.mark_point(filled=True, size=50).encode(x="value:Q", y=method)
        )
        .properties(width=200, height=22 * len(order))
        .facet(column=alt.Column("queries:N", sort=sets, title=None))
    )


PAGE = Page(name="fidelity", title="How far scores are borne out by retraining", asset="evaluations", draw=draw)
