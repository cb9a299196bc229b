"""The picture of predicted against measured changes: whether scores have the sizes that retraining shows."""

from typing import Any

import polars as pl

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact

POINTS_DRAWN = 4000


def draw(artifact: Artifact) -> bytes:
    """Draw the predictions that an artifact of `evaluations` holds."""
    from influence_assets.report.charts import png

    return png(chart(artifact.table("predictions").collect()))


def chart(predictions: pl.DataFrame) -> Any:
    """Return a chart with a point for each query and subset, and the line on which predictions are right.

    Both changes are those from the query's mean over all subsets.

    Args:
        predictions: `query_set_id`, `predicted_nats` and `measured_nats`.
    """
    import altair as alt

    from influence_assets.report.charts import HEIGHT

    shown = predictions.sample(min(predictions.height, POINTS_DRAWN), seed=0)
    size = float(max(abs(shown["predicted_nats"]).max() or 0, abs(shown["measured_nats"]).max() or 0))  # type: ignore[arg-type]
    axis = alt.Scale(domain=[-size, size])
    points = (
        alt.Chart(shown)
        .mark_circle(opacity=0.25, size=12)
        .encode(
            x=alt.X("predicted_nats:Q", scale=axis, title="predicted change (nats)"),
            y=alt.Y("measured_nats:Q", scale=axis, title="measured change (nats)"),
            color=alt.Color("query_set_id:N", title="query set", legend=alt.Legend(symbolOpacity=1)),
        )
    )
    ends = pl.DataFrame({"x": [-size, size], "y": [-size, size]})
    line = alt.Chart(ends).mark_line(color="black", strokeWidth=1).encode(x="x:Q", y="y:Q")
    return (points + line).properties(width=HEIGHT, height=HEIGHT)


PAGE = Page(name="calibration", title="Predicted and measured changes", asset="evaluations", draw=draw)
