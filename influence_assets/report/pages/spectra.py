"""The picture of a generation's corrected eigenvalues and damping."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact


def draw(artifact: Artifact) -> bytes:
    """Draw the spectra of an artifact of `curvature`."""
    from influence_assets.report.charts import png

    damping: dict[str, float] = artifact.manifest.summary["damping"]
    Λ = {layer: artifact.array(f"{layer}.corrected_eigenvalues") for layer in damping}
    if "rank" in artifact.manifest.summary:  # the last row and column are means outside of the kept eigenvectors
        Λ = {layer: values[:-1, :-1] if values.size > 1 else values for layer, values in Λ.items()}
    return png(chart(Λ, damping))


def chart(eigenvalues: Mapping[str, np.ndarray], damping: Mapping[str, float]) -> Any:
    """Return a chart of every layer's corrected eigenvalues, descending, on logarithmic axes; λ is dashed.

    Args:
        eigenvalues: Λ [d_out, d_in] by layer.
        damping: λ by layer.
    """
    import altair as alt

    from influence_assets.report.charts import HEIGHT, LOGARITHMIC, POINTS, WIDTH

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
    return (lines + rules).properties(width=WIDTH, height=HEIGHT)


PAGE = Page(name="spectra", title="Corrected eigenvalues", asset="curvature", draw=draw)
