"""A shard's documents and token sequences, read from their artifacts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:  # torch takes seconds to import, and packing does not need it
    from influence_assets.capture.batches import Parts, Sequences

DOCUMENTS_AT_ONCE = 1024

LOSS = "loss"
"""The array of which tokens carry a loss, one byte each; a shard in which all do has none."""


FORMS = "forms"
"""The table of the forms of documents that are more than a text; a shard of plain texts has none."""


def has_forms(documents: Artifact) -> bool:
    """Return whether a shard's documents are conversations, or prompts with completions."""
    return FORMS in documents.manifest.rows


def stored_documents(documents: Artifact) -> Iterator[pl.DataFrame]:
    """Yield a shard's documents, a few at a time, in the form that `corpus.packing.pack` takes."""
    table = documents.table("documents").select("document_id", "source_row", "text")
    forms = documents.table(FORMS).collect() if has_forms(documents) else None
    for frame in table.collect_batches(chunk_size=DOCUMENTS_AT_ONCE, maintain_order=True):
        yield frame if forms is None else frame.join(forms, on="document_id", how="left", maintain_order="left")


def shard_sequences(token_sequences: Artifact) -> "Sequences":
    """Return all sequences of a shard."""
    from influence_assets.capture.batches import Sequences

    ids = token_sequences.table("sequences").select("sequence_id").collect()["sequence_id"].to_numpy()
    loss = token_sequences.array(LOSS) if LOSS in token_sequences.array_names() else None
    return Sequences(token_sequences.array("tokens"), token_sequences.array("lengths"), ids, loss=loss)


def shared_sequences(token_sequences: Artifact) -> pl.DataFrame:
    """Return the documents of those sequences that have several.

    Returns:
        Columns `row` (the sequence's number in the shard, ascending), `sequence_id`, `document_id`, `token_start`
        (ascending in a sequence) and `token_end`.
    """
    sequences = token_sequences.table("sequences").select("sequence_id").with_row_index("row")
    spans = token_sequences.table("sequence_documents").filter(pl.len().over("sequence_id") > 1)
    shared = spans.join(sequences, on="sequence_id").sort("row", "token_start")
    return shared.select("row", "sequence_id", "document_id", "token_start", "token_end").collect()


def passages_of(token_sequences: Artifact) -> pl.DataFrame:
    """Return the documents of all sequences, also of those that have one only.

    Returns:
        Columns `row` (the sequence's number in the shard, ascending), `sequence_id`, `document_id`, `token_start`
        (ascending in a sequence), `token_end`, and `character_start` and `character_end` in the document.
    """
    sequences = token_sequences.table("sequences").select("sequence_id").with_row_index("row")
    spans = token_sequences.table("sequence_documents").join(sequences, on="sequence_id").sort("row", "token_start")
    return spans.select(
        "row", "sequence_id", "document_id", "token_start", "token_end", "character_start", "character_end"
    ).collect()


def parts_of(shared: pl.DataFrame) -> "Parts":
    """Return the runs of positions that `shared_sequences` lists."""
    from influence_assets.capture.batches import Parts

    return Parts(*(shared[name].to_numpy().astype(np.int64) for name in ("row", "token_start", "token_end")))
