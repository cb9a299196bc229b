"""The steps of the group `corpus`: documents and token sequences."""

import polars as pl

from influence_assets.corpus.documents import DOCUMENT_SCHEMA, read_documents
from influence_assets.corpus.packing import pack
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError
from influence_assets.pipeline.steps import Work

DOCUMENTS_AT_ONCE = 1024


def documents(work: Work) -> None:
    """The shard's documents with their metadata; identical ones are kept once. A document's id is its text's hash."""
    workspace = work.workspace
    source = workspace.source(str(work.partition.shard))
    stream = read_documents(source, work.study.corpus)
    work.draft.table_from("documents", stream, DOCUMENT_SCHEMA)
    counts = vars(stream.counts)
    described = {
        "shard_id": source.shard_id,
        "path": source.url,
        "source_bytes": source.bytes,
        "content_hash": workspace.content_hash(source),
    }
    work.draft.table("shards", pl.DataFrame([described | counts]))
    work.draft.summarise(**counts, source_bytes=source.bytes, content_hash=workspace.content_hash(source))


def token_sequences(work: Work) -> None:
    """The shard's documents as tokens, packed into sequences of fixed length.

    Every token remembers the document and the characters that it came from.
    """
    shard = str(work.partition.shard)
    length = work.study.sequences.length
    tokenization = Tokenization.load(work.open("language_model").path("tokenizer"))
    table = work.open("documents").table("documents").select("document_id", "source_row", "text")
    rows = [
        work.draft.growing_array(name, (length,), "int32") for name in ("tokens", "character_start", "character_end")
    ]
    lengths = work.draft.growing_array("lengths", (), "int32")
    frames: list[pl.DataFrame] = []
    spans: list[pl.DataFrame] = []
    batches = table.collect_batches(chunk_size=DOCUMENTS_AT_ONCE, maintain_order=True)
    for packed in pack(batches, tokenization, length, shard):
        for array, block in zip(rows, (packed.tokens, packed.character_start, packed.character_end), strict=True):
            array.append(block)
        lengths.append(packed.lengths)
        frames.append(packed.sequences)
        spans.append(packed.sequence_documents)
        work.progress(sum(map(len, frames)), None)
    if not frames:
        raise InputError(
            work.workspace.source(shard).url,
            "its documents give fewer than two tokens together, so that no token can be predicted",
            "Remove the file, or add text to it.",
        )
    sequences = pl.concat(frames, rechunk=False)
    work.draft.table("sequences", sequences)
    work.draft.table("sequence_documents", pl.concat(spans))
    tokens = int(sequences["tokens"].sum())
    work.draft.summarise(
        sequences=sequences.height, tokens=tokens, predicted_tokens=tokens - sequences.height, sequence_length=length
    )
