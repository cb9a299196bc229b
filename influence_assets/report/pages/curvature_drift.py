"""The picture of how far the corpus has moved from the frozen generation."""

from typing import Any

import polars as pl

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact

SHARDS_SHOWN = 1000
"""If there are more shards, an evenly spaced selection is drawn; more points could hardly be distinguished."""


def draw(artifact: Artifact) -> bytes:
    """Draw an artifact of `curvature_drift`."""
    from influence_assets.report.charts import png

    return png(chart(artifact.table("layer_drift").collect(), artifact.table("shard_drift").collect()))


def chart(layers: pl.DataFrame, shards: pl.DataFrame) -> Any:
    """Return a chart of the drift of layers, above one of the drift of shards.

    Args:
        layers: `module_name`, `measure`, `drift` and `threshold`, layers in the model's order.
        shards: `shard_id`, `fitted`, `measure` and `drift`.
    """
    pictures = _layer_drift(layers) & _shard_drift(shards)
    return pictures.resolve_scale(color="independent")


def _layer_drift(drifts: pl.DataFrame) -> Any:
    """Return a chart of each layer's drift by measure; the dashed line is the study's threshold."""
    import altair as alt

    from influence_assets.report.charts import WIDTH

    layers = drifts["module_name"].unique(maintain_order=True).to_list()
    points = (
        alt.Chart(drifts.select("module_name", "measure", pl.col("drift").fill_nan(None)))  # JSON has no NaN
        .mark_point(filled=True, size=70, opacity=0.8)
        .encode(
            x=alt.X("drift:Q", title="drift from the frozen generation", scale=alt.Scale(zero=True)),
            y=alt.Y("module_name:N", scale=alt.Scale(domain=layers), title=None, axis=alt.Axis(labelLimit=300)),
            color=_measure(),
            shape=alt.Shape("measure:N", legend=None),
        )
    )
    rule = alt.Chart(drifts.select("threshold").head(1)).mark_rule(strokeDash=[4, 4]).encode(x="threshold:Q")
    return (points + rule).properties(width=WIDTH, height=max(60, 18 * len(layers)))


def _shard_drift(drifts: pl.DataFrame) -> Any:
    """Return a chart of each shard's own drift by measure, in two colours: fitted on, and new since then."""
    import altair as alt

    from influence_assets.report.charts import WIDTH

    numbers = drifts.select(pl.col("shard_id").unique(maintain_order=True)).with_row_index("shard", offset=1)
    every = -(-numbers.height // SHARDS_SHOWN)
    numbers = numbers.filter((pl.col("shard") - 1) % every == 0)
    kinds = pl.when(pl.col("fitted")).then(pl.lit("fitted on")).otherwise(pl.lit("new since")).alias("generation")
    drawn = drifts.join(numbers, on="shard_id", how="inner", maintain_order="left").select(
        "shard", "measure", pl.col("drift").fill_nan(None), kinds
    )
    return (
        alt.Chart(drawn)
        .mark_point(filled=True, size=30, opacity=0.6)
        .encode(
            x=alt.X("shard:Q", title="shard, by name", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(zero=False)),
            y=alt.Y("drift:Q", title="drift"),
            color=alt.Color(
                "generation:N",
                title=None,
                scale=alt.Scale(domain=["fitted on", "new since"]),
                legend=alt.Legend(orient="bottom"),
            ),
        )
        .properties(width=WIDTH, height=110)
        .facet(row=alt.Row("measure:N", title=None))
        .resolve_scale(y="independent")
    )


def _measure() -> Any:
    import altair as alt

    return alt.Color("measure:N", title=None, legend=alt.Legend(orient="bottom"))


PAGE = Page(name="curvature_drift", title="Drift of each layer and shard", asset="curvature_drift", draw=draw)
