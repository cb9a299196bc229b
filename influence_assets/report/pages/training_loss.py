"""The picture of the training loss of a model that the study trains."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    import altair as alt


def draw(artifact: Artifact) -> bytes | None:
    """Draw an artifact of `language_model`; None for a model that the study did not train."""
    losses = artifact.manifest.summary.get("epoch_losses_nats")
    if not losses:
        return None
    from influence_assets.report.charts import png

    return png(chart(losses))


def chart(losses: Sequence[float]) -> "alt.Chart":
    """Return a chart of the mean loss of each epoch, in nats per token."""
    import altair as alt

    from influence_assets.report.charts import HEIGHT, WIDTH

    rows = pl.DataFrame({"epoch": range(1, len(losses) + 1), "loss": losses})
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
    line: alt.Chart = alt.Chart(rows).mark_line(point=True)
    return line.encode(x=x, y=alt.Y("loss:Q", title="loss (nats per token)")).properties(width=WIDTH, height=HEIGHT)


PAGE = Page(name="training_loss", title="Training loss", asset="language_model", draw=draw)
