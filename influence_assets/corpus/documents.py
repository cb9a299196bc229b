"""Documents: the rows of a shard with their identity, each text once."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from influence_assets.corpus.readers import ROW_SCHEMA, read_rows
from influence_assets.corpus.sources import SourceFile
from influence_assets.study import Corpus

DOCUMENT_SCHEMA = pl.Schema(
    {
        "document_id": pl.String(),
        "shard_id": pl.String(),
        **{name: dtype for name, dtype in ROW_SCHEMA.items() if name != "text"},
        "characters": pl.Int64(),
        "text": pl.String(),
    }
)


@dataclass(frozen=True)
class DocumentCounts:
    """What a shard holds.

    Attributes:
        documents: documents kept.
        duplicate_documents: rows left out because an earlier row of the shard has the same text.
        characters: Unicode characters of the documents kept.
    """

    documents: int
    duplicate_documents: int
    characters: int


class DocumentStream:
    """The documents of one shard as frames of `DOCUMENT_SCHEMA`, read anew by every iteration."""

    def __init__(self, source: SourceFile, corpus: Corpus) -> None:
        self._source = source
        self._corpus = corpus
        self._counts: DocumentCounts | None = None

    @property
    def counts(self) -> DocumentCounts:
        """The counts of the whole shard.

        Raises:
            RuntimeError: no iteration has come to the end yet.
        """
        if self._counts is None:
            raise RuntimeError("the documents are counted while they are read: iterate to the end first")
        return self._counts

    def __iter__(self) -> Iterator[pl.DataFrame]:
        seen: set[str] = set()
        rows = characters = 0
        for batch in read_rows(self._source, self._corpus):
            rows += batch.height
            documents = _first_of_each(_identified(batch, self._source.shard_id), seen)
            characters += int(documents["characters"].sum())
            if documents.height:
                yield documents
        self._counts = DocumentCounts(len(seen), rows - len(seen), characters)


def read_documents(source: SourceFile, corpus: Corpus) -> DocumentStream:
    """The documents of a source file; iterating raises what `readers.read_rows` raises."""
    return DocumentStream(source, corpus)


def document_id(text: str) -> str:
    """The first 32 hex digits of the sha256 of the UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def _identified(rows: pl.DataFrame, shard_id: str) -> pl.DataFrame:
    return rows.with_columns(
        pl.Series("document_id", [document_id(text) for text in rows["text"]], dtype=pl.String),
        pl.lit(shard_id).alias("shard_id"),
        pl.col("text").str.len_chars().cast(pl.Int64).alias("characters"),
    ).select(DOCUMENT_SCHEMA.names())


def _first_of_each(documents: pl.DataFrame, seen: set[str]) -> pl.DataFrame:
    """The documents whose id is not in `seen`, each once; their ids are added to it."""
    first = []
    for identity in documents["document_id"]:
        first.append(identity not in seen)
        seen.add(identity)
    return documents.filter(pl.Series(first, dtype=pl.Boolean))
