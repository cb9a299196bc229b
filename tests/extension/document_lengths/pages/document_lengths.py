"""How long the documents of a shard are. All that a page of one's own takes."""

from influence_assets.report.page import Page
from influence_assets.storage.artifacts import Artifact


def draw(artifact: Artifact) -> bytes:
    """Draw a bar for each document of an artifact of `documents`."""
    import altair as alt

    from influence_assets.report.charts import png

    lengths = artifact.table("documents").select("characters").collect().with_row_index("document")
    return png(alt.Chart(lengths).mark_bar().encode(x="document:O", y="characters:Q").properties(width=260, height=150))


PAGE = Page(name="document_lengths", title="Length of each document", asset="documents", draw=draw)
