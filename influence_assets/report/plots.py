"""Plots as PNG images, small enough to lie in a run's metadata."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert

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


def _png(chart: "alt.LayerChart | alt.Chart") -> bytes:
    return vl_convert.vegalite_to_png(chart.to_json(), scale=1.5)
