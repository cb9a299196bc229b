"""The steps of the group `corpus`: documents and token sequences."""

from collections.abc import Iterator

import polars as pl

from influence_assets.corpus.documents import DOCUMENT_SCHEMA, read_documents
from influence_assets.corpus.packing import SEQUENCE_DOCUMENT_SCHEMA, SEQUENCE_SCHEMA, pack
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.errors import InputError
from influence_assets.pipeline.steps import Work
from influence_assets.storage.artifacts import Artifact

DOCUMENTS_AT_ONCE = 1024
TOKEN_ARRAYS = ("tokens", "character_start", "character_end")


def documents(work: Work) -> None:
    """The shard's documents with their metadata; identical ones are kept once. A document's id is its text's hash."""
    workspace = work.workspace
    shard = workspace.shard(str(work.partition.shard))
    withdrawn = workspace.withdrawn.of(shard)
    stream = read_documents(shard, work.study.corpus, withdrawn)
    work.draft.table_from("documents", stream, DOCUMENT_SCHEMA)
    counts = vars(stream.counts)
    described = {
        "shard_id": shard.shard_id,
        "path": shard.file.url,
        "first_row": shard.first_row,
        "source_bytes": shard.bytes,
        "content_hash": shard.content_hash,
    }
    work.draft.table("shards", pl.DataFrame([described | counts]))
    content = {"source_bytes": shard.bytes, "content_hash": shard.content_hash}
    work.draft.summarise(**counts, **content, withdrawn=sorted(withdrawn))


def token_sequences(work: Work) -> None:
    """The shard's documents as tokens, packed into sequences of fixed length.

    Every token remembers the document and the characters that it came from.
    """
    shard = str(work.partition.shard)
    length = work.study.sequences.length
    tokenization = Tokenization.load(work.open("language_model").path("tokenizer"))
    arrays = {name: work.draft.growing_array(name, (length,), "int32") for name in TOKEN_ARRAYS}
    lengths = work.draft.growing_array("lengths", (), "int32")
    spans = [pl.DataFrame(schema=SEQUENCE_DOCUMENT_SCHEMA)]
    tokens = 0

    def sequences() -> Iterator[pl.DataFrame]:
        """The texts go straight to the disk; arrays and spans are written on the way."""
        nonlocal tokens
        for packed in pack(stored_documents(work.open("documents")), tokenization, length, shard):
            for name, array in arrays.items():
                array.append(getattr(packed, name))
            lengths.append(packed.lengths)
            spans.append(packed.sequence_documents)
            tokens += int(packed.lengths.sum())
            yield packed.sequences

    count = work.draft.table_from("sequences", sequences(), SEQUENCE_SCHEMA)
    if not count:
        raise InputError(
            work.workspace.shard(shard).file.url,
            "its documents give fewer than two tokens together, so that no token can be predicted",
            "Remove the file, or add text to it.",
        )
    work.draft.table("sequence_documents", pl.concat(spans))
    work.draft.summarise(sequences=count, tokens=tokens, predicted_tokens=tokens - count, sequence_length=length)


def stored_documents(documents: Artifact) -> Iterator[pl.DataFrame]:
    """A shard's documents as `pack` takes them, a few at a time."""
    table = documents.table("documents").select("document_id", "source_row", "text")
    return iter(table.collect_batches(chunk_size=DOCUMENTS_AT_ONCE, maintain_order=True))
