"""A shard's documents and token sequences, read from their artifacts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl

from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:  # torch takes seconds to import, and packing does not need it
    from influence_assets.capture.batches import Sequences

DOCUMENTS_AT_ONCE = 1024


def stored_documents(documents: Artifact) -> Iterator[pl.DataFrame]:
    """Yield a shard's documents, a few at a time, in the form that `corpus.packing.pack` takes."""
    table = documents.table("documents").select("document_id", "source_row", "text")
    return iter(table.collect_batches(chunk_size=DOCUMENTS_AT_ONCE, maintain_order=True))


def shard_sequences(token_sequences: Artifact) -> "Sequences":
    """Return all sequences of a shard."""
    from influence_assets.capture.batches import Sequences

    ids = token_sequences.table("sequences").select("sequence_id").collect()["sequence_id"].to_numpy()
    return Sequences(token_sequences.array("tokens"), token_sequences.array("lengths"), ids)
