"""The picture of each method's linear datamodeling score beside its cost: passes over the corpus, and bytes."""

from typing import Any

import polars as pl

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact

COSTS = {"passes": ("passes over the corpus", 1), "bytes": ("bytes kept", 1000)}
"""For each figure the title of its axis, and up to where the axis is about linear."""

TICKS = (0, *(10**power for power in range(16)))


def draw(artifact: Artifact) -> bytes | None:
    """Draw the scores and costs that an artifact of `evaluations` holds; None if it is older than the costs."""
    from influence_assets.report.charts import png

    figures = artifact.table("evaluations").filter(pl.col("query_set_id").is_null()).collect()
    return png(chart(figures)) if set(COSTS) <= set(figures["figure"]) else None


def chart(figures: pl.DataFrame) -> Any:
    """Return two charts side by side, with a point for each method: its score by its passes, and by its bytes.

    The axes of costs are logarithmic but near zero, where BM25 and chance stand, which run no model. Methods whose
    passes are not counted are missing on the left.

    Args:
        figures: `method`, `figure` (`lds`, `passes` or `bytes`), `value`, `low` and `high` over all queries.
    """
    import altair as alt

    from influence_assets.report.charts import HEIGHT

    scores = figures.filter(pl.col("figure") == "lds").select("method", "value", "low", "high")
    y = alt.Y("value:Q", title="linear datamodeling score")
    color = alt.Color("method:N", sort=scores.sort("value", descending=True)["method"].to_list())
    charts = []
    for figure, (title, linear) in COSTS.items():
        costs = figures.filter(pl.col("figure") == figure).select("method", cost="value").drop_nulls()
        ticks = [tick for tick in TICKS if tick == 0 or tick >= linear]
        axis = alt.Axis(labelExpr="format(datum.value, '~s')", values=ticks)
        x = alt.X("cost:Q", title=title, scale=alt.Scale(type="symlog", constant=linear), axis=axis)
        base = alt.Chart(scores.join(costs, on="method", maintain_order="left")).encode(x=x, color=color)
        drawn = base.mark_rule().encode(y="low:Q", y2="high:Q") + base.mark_point(filled=True, size=60).encode(y=y)
        charts.append(drawn.properties(width=HEIGHT, height=HEIGHT))
    return alt.hconcat(*charts)


PAGE = Page(name="fidelity_and_cost", title="Fidelity beside cost", asset="evaluations", draw=draw)
