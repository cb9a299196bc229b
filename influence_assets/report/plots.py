"""Plots as PNG images, small enough to lie in a run's metadata."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert

# Altair refuses frames of more than 5,000 rows unless told: 26 layers of 200 points, or 1,700 shards.
alt.data_transformers.disable_max_rows()

SHARDS_SHOWN = 1000
"""More shards than this are drawn evenly spaced: so many points can hardly be told apart."""

POINTS = 200
"""Points kept of a spectrum: as many as can be told apart."""

LOGARITHMIC: dict[str, Any] = {"scale": alt.Scale(type="log"), "axis": alt.Axis(format="~e")}


def spectra(eigenvalues: Mapping[str, np.ndarray], damping: Mapping[str, float]) -> bytes:
    """Corrected eigenvalues of every layer, descending, on logarithmic axes; dashed: each layer's damping λ."""
    frames, levels = [], []
    for layer, values in eigenvalues.items():
        ordered = np.sort(values.reshape(-1))[::-1]
        rank = np.unique(np.geomspace(1, len(ordered), POINTS).astype(int))
        floor = damping[layer] * 1e-6  # zeros have no place on a logarithmic axis
        frames.append(pl.DataFrame({"layer": layer, "rank": rank, "eigenvalue": np.maximum(ordered[rank - 1], floor)}))
        levels.append({"layer": layer, "damping": damping[layer]})
    colour = alt.Color("layer:N", title=None, legend=alt.Legend(orient="bottom", columns=2, labelLimit=300))
    lines = (
        alt.Chart(pl.concat(frames))
        .mark_line()
        .encode(
            x=alt.X("rank:Q", scale=alt.Scale(type="log"), title="rank"),
            y=alt.Y("eigenvalue:Q", **LOGARITHMIC, title="corrected eigenvalue Λ"),
            color=colour,
        )
    )
    rules = alt.Chart(pl.DataFrame(levels)).mark_rule(strokeDash=[4, 4]).encode(y="damping:Q", color=colour)
    return _png((lines + rules).properties(width=520, height=300))


def score_distribution(scores: pl.DataFrame) -> bytes:
    """Share of each query's sequences above a score, positive scores only, on logarithmic axes.

    A straight right end is the power law of Grosse et al. 2023, Sec. 5.2.1.

    Args:
        scores: `query_id` and `influence_nats`.
    """
    frames = []
    for (query_id,), rows in scores.group_by(["query_id"], maintain_order=True):
        values = np.sort(rows["influence_nats"].to_numpy())[::-1]
        above = np.arange(1, len(values) + 1) / len(values)
        kept = np.unique(np.geomspace(1, len(values), POINTS).astype(int)) - 1
        kept = kept[values[kept] > 0]
        if len(kept):
            frames.append(pl.DataFrame({"query": str(query_id), "influence_nats": values[kept], "share": above[kept]}))
    drawn = pl.concat(frames) if frames else pl.DataFrame({"query": [], "influence_nats": [], "share": []})
    chart = (
        alt.Chart(drawn)
        .mark_line(opacity=0.7)
        .encode(
            x=alt.X("influence_nats:Q", **LOGARITHMIC, title="influence (nats)"),
            y=alt.Y("share:Q", **LOGARITHMIC, title="share of sequences above"),
            color=alt.Color("query:N", legend=None),
        )
    )
    return _png(chart.properties(width=520, height=300))


def drift(layers: pl.DataFrame, shards: pl.DataFrame) -> bytes:
    """How far layers and shards have moved from the frozen generation, one picture above the other.

    Args:
        layers: `module_name`, `measure`, `drift` and `threshold`, layers in the model's order.
        shards: `shard_id`, `fitted`, `measure` and `drift`.
    """
    return _png((_layer_drift(layers) & _shard_drift(shards)).resolve_scale(color="independent"))


def _layer_drift(drifts: pl.DataFrame) -> Any:
    """Each layer's drift by measure; dashed: the study's threshold."""
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
    return (points + rule).properties(width=520, height=max(60, 18 * len(layers)))


def _shard_drift(drifts: pl.DataFrame) -> Any:
    """Each shard's own drift by measure, shards in order: those that the generation was fitted on against new ones."""
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
        .properties(width=520, height=110)
        .facet(row=alt.Row("measure:N", title=None))
        .resolve_scale(y="independent")
    )


def _measure() -> alt.Color:
    return alt.Color("measure:N", title=None, legend=alt.Legend(orient="bottom"))


def _png(chart: "alt.LayerChart | alt.Chart | alt.FacetChart | alt.VConcatChart") -> bytes:
    return vl_convert.vegalite_to_png(chart.to_json(), scale=1.5)
