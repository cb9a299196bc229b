"""Reading of a shard's documents: its rows with ids, each text once."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import polars as pl

from influence_assets.corpus.bad_rows import BadRows
from influence_assets.corpus.readers import ROW_SCHEMA, read_rows
from influence_assets.corpus.slices import Shard
from influence_assets.study import Corpus

DOCUMENT_SCHEMA = pl.Schema(
    {
        "document_id": pl.String(),
        "shard_id": pl.String(),
        **{name: dtype for name, dtype in ROW_SCHEMA.items() if name not in ("text", "form")},
        "characters": pl.Int64(),
        "text": pl.String(),
    }
)


FORM_SCHEMA = pl.Schema({"document_id": pl.String(), "form": pl.String()})
"""The forms of documents that are more than a text."""


@dataclass(frozen=True)
class DocumentCounts:
    """The numbers of documents in a shard.

    Attributes:
        documents: documents that are kept.
        duplicate_documents: rows left out because an earlier row of the shard has the same text.
        withdrawn_documents: rows left out because their text is withdrawn.
        characters: Unicode characters of the documents that are kept.
        skipped_rows: rows left out because they cannot be used (`corpus.on_bad_row: skip`).
    """

    documents: int
    duplicate_documents: int
    withdrawn_documents: int
    characters: int
    skipped_rows: int = 0


class DocumentStream:
    """The documents of one shard as frames of `DOCUMENT_SCHEMA`; every iteration reads them again."""

    def __init__(self, shard: Shard, corpus: Corpus, withdrawn: Collection[str]) -> None:
        self._shard = shard
        self._corpus = corpus
        self._withdrawn = frozenset(withdrawn)
        self._counts: DocumentCounts | None = None
        self._forms: list[pl.DataFrame] = []
        self._bad_rows = BadRows()

    @property
    def counts(self) -> DocumentCounts:
        """The counts of the whole shard.

        Raises:
            RuntimeError: no iteration has reached the end yet.
        """
        if self._counts is None:
            raise RuntimeError("the documents are counted while they are read: iterate to the end first")
        return self._counts

    @property
    def forms(self) -> pl.DataFrame | None:
        """The forms of those documents of the last iteration that have one, as `FORM_SCHEMA`; None if there are none.

        Raises:
            RuntimeError: no iteration has reached the end yet.
        """
        _ = self.counts
        return pl.concat(self._forms) if self._forms else None

    @property
    def skipped(self) -> pl.DataFrame:
        """The rows that the last iteration left out because they cannot be used, as `BAD_ROW_SCHEMA`.

        Raises:
            RuntimeError: no iteration has reached the end yet.
        """
        _ = self.counts
        return self._bad_rows.table(self._shard.shard_id)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        seen: set[str] = set()
        self._forms, self._bad_rows = [], BadRows()
        rows = withdrawn = characters = 0
        for batch in read_rows(self._shard, self._corpus, self._bad_rows):
            identified = _identified(batch, self._shard.shard_id)
            allowed = identified.filter(~pl.col("document_id").is_in(self._withdrawn))
            rows += identified.height
            withdrawn += identified.height - allowed.height
            documents = _first_of_each(allowed, seen)
            characters += int(documents["characters"].sum())
            with_form = documents.select(FORM_SCHEMA.names()).filter(pl.col("form").is_not_null())
            if with_form.height:
                self._forms.append(with_form)
            if documents.height:
                yield documents.select(DOCUMENT_SCHEMA.names())
        # Only now is it certain that the rows are those that the shard's hash was computed from.
        duplicates = rows - withdrawn - len(seen)
        self._counts = DocumentCounts(len(seen), duplicates, withdrawn, characters, self._bad_rows.count)


def read_documents(shard: Shard, corpus: Corpus, withdrawn: Collection[str] = ()) -> DocumentStream:
    """Return the documents of a shard; iterating raises what `readers.read_rows` raises.

    Args:
        shard: the shard to read.
        corpus: the study's corpus.
        withdrawn: ids of documents to leave out.
    """
    return DocumentStream(shard, corpus, withdrawn)


def document_ids(shard: Shard, corpus: Corpus) -> frozenset[str]:
    """Return the ids of all texts of a shard; raises what `readers.read_rows` raises."""
    return frozenset(identity for rows in read_rows(shard, corpus) for identity in _ids(rows))


def document_id(text: str, form: str | None = None) -> str:
    r"""Return the first 32 hex digits of the sha256 of the UTF-8 text.

    Args:
        text: the document's text.
        form: its form if it is a conversation, or a prompt with its completion; then it is that of text + `\0` + form.
    """
    identity = text if form is None else f"{text}\0{form}"
    return hashlib.sha256(identity.encode("utf-8")).hexdigest()[:32]


def _ids(rows: pl.DataFrame) -> list[str]:
    return [document_id(text, form) for text, form in zip(rows["text"], rows["form"], strict=True)]


def _identified(rows: pl.DataFrame, shard_id: str) -> pl.DataFrame:
    return rows.with_columns(
        pl.Series("document_id", _ids(rows), dtype=pl.String),
        pl.lit(shard_id).alias("shard_id"),
        pl.col("text").str.len_chars().cast(pl.Int64).alias("characters"),
    ).select([*DOCUMENT_SCHEMA.names(), "form"])


def _first_of_each(documents: pl.DataFrame, seen: set[str]) -> pl.DataFrame:
    """Return the documents whose id is not in `seen`, each once, and add their ids to `seen`."""
    is_first = []
    for identity in documents["document_id"]:
        is_first.append(identity not in seen)
        seen.add(identity)
    return documents.filter(pl.Series(is_first, dtype=pl.Boolean))
