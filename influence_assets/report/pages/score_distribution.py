"""The picture of each query's distribution of scores: few sequences carry most of the influence."""

from typing import Any

import numpy as np
import polars as pl

from influence_assets.engine.workspace import CATALOGUE
from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact

SAMPLED_SCORES = "select query_id, influence_nats from current_scores using sample 20000"


def draw(artifact: Artifact) -> bytes:
    """Draw the scores in the DuckDB file that an artifact of `influence_catalogue` loaded."""
    from influence_assets.report.charts import png
    from influence_assets.storage.catalogue import query

    return png(chart(query(artifact.local_root / CATALOGUE, SAMPLED_SCORES)))


def chart(scores: pl.DataFrame) -> Any:
    """Return a chart of the share of each query's sequences above a positive score, on logarithmic axes.

    A straight right end is the power law of Grosse et al. 2023, Sec. 5.2.1.

    Args:
        scores: `query_id` and `influence_nats`.
    """
    import altair as alt

    from influence_assets.report.charts import HEIGHT, LOGARITHMIC, WIDTH

    return (
        alt.Chart(_shares_above(scores))
        .mark_line(opacity=0.7)
        .encode(
            x=alt.X("influence_nats:Q", **LOGARITHMIC, title="influence (nats)"),
            y=alt.Y("share:Q", **LOGARITHMIC, title="share of sequences above"),
            color=alt.Color("query:N", legend=None),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )


def _shares_above(scores: pl.DataFrame) -> pl.DataFrame:
    """Return some of each query's positive scores and the share of its sequences that score as much or more."""
    from influence_assets.report.charts import POINTS

    frames = [pl.DataFrame(schema={"query": pl.String, "influence_nats": pl.Float64, "share": pl.Float64})]
    for (query_id,), rows in scores.group_by(["query_id"], maintain_order=True):
        values = np.sort(rows["influence_nats"].to_numpy())[::-1]
        above = np.arange(1, len(values) + 1) / len(values)
        drawn = np.unique(np.geomspace(1, len(values), POINTS).astype(int)) - 1
        drawn = drawn[values[drawn] > 0]
        frames.append(
            pl.DataFrame(
                {"query": [str(query_id)] * len(drawn), "influence_nats": values[drawn], "share": above[drawn]},
                schema=frames[0].schema,
            )
        )
    return pl.concat(frames)


PAGE = Page(name="score_distribution", title="Distribution of scores", asset="influence_catalogue", draw=draw)
