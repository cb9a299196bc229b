"""Packing: documents are joined one after the other and cut into training sequences of one length, or each by itself.

The range of characters of its document is kept for every token. A token that packing adds has an empty range: the
template's prefix at the document's start, the separator at its end. A sequence that is not full is padded with token 0
(see `lengths`); a sequence of a single token predicts nothing and is dropped.

Where documents are packed but do not see each other, the model reads each document's run of a packed sequence as if it
stood alone: attention is blocked between documents, positions start anew, and no document's first token is predicted
from the one before. The loss of a packed sequence is then the sum of its runs' losses, so each run is a sequence here.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.corpus.tokenization import Tokenization, TokenizedText
from influence_assets.study import Packing

SEQUENCE_SCHEMA = pl.Schema(
    {
        "sequence_id": pl.Int64(),
        "shard_id": pl.String(),
        "sequence_index": pl.Int32(),
        "tokens": pl.Int32(),
        "text": pl.String(),
    }
)
SEQUENCE_DOCUMENT_SCHEMA = pl.Schema(
    {
        "sequence_id": pl.Int64(),
        "document_id": pl.String(),
        "token_start": pl.Int32(),
        "token_end": pl.Int32(),
        "character_start": pl.Int32(),
        "character_end": pl.Int32(),
    }
)
DOCUMENT_SEPARATOR = "\n\n"

_BATCH_SEQUENCES = 1024
_BATCH_TOKENS = 2**20
_ENCODED_AT_ONCE = 64  # documents


@dataclass(frozen=True, eq=False)
class PackedSequences:
    """Several sequences of a shard, n of them.

    Attributes:
        tokens: int32 [n, length], 0 past a sequence's end.
        lengths: int32 [n], at least 2.
        character_start: int32 [n, length], in the token's own document.
        character_end: int32 [n, length].
        loss: uint8 [n, length], 1 where a token carries a loss.
        sequences: frame of `SEQUENCE_SCHEMA`, n rows. `text` is the source text of the tokens, not their decoding, with
            an empty line between documents.
        sequence_documents: frame of `SEQUENCE_DOCUMENT_SCHEMA`, one row for each document's run of tokens.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    character_start: NDArray[np.int32]
    character_end: NDArray[np.int32]
    loss: NDArray[np.uint8]
    sequences: pl.DataFrame
    sequence_documents: pl.DataFrame


@dataclass(frozen=True, eq=False)
class Prepared:
    """The tokens of a document that is more than a text.

    Attributes:
        tokens: its tokens.
        loss: uint8 [T], 1 where a token carries a loss.
        is_complete: whether nothing is to be put around it, because its chat template has done so.
    """

    tokens: TokenizedText
    loss: NDArray[np.uint8]
    is_complete: bool


Prepare = Callable[[str, str, str], Prepared]
"""Makes tokens of a document, given its form, its text, and its place for errors."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """A run of tokens of one document."""

    document_id: str
    text: str
    tokens: NDArray[np.int32]
    character_start: NDArray[np.int32]
    character_end: NDArray[np.int32]
    loss: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, run: slice) -> "_Piece":
        starts, ends = self.character_start[run], self.character_end[run]
        return _Piece(self.document_id, self.text, self.tokens[run], starts, ends, self.loss[run])


@dataclass(frozen=True)
class _Span:
    """A document's run of tokens within one sequence. Ranges exclude their ends."""

    sequence: int
    document_id: str
    token_start: int
    token_end: int
    character_start: int
    character_end: int
    text: str


def pack(  # noqa: PLR0913  # three of them are how a study packs
    documents: Iterable[pl.DataFrame],
    tokenization: Tokenization,
    length: int,
    shard_id: str,
    *,
    packing: Packing = "packed",
    documents_see_each_other: bool = True,
    prepare: Prepare | None = None,
) -> Iterator[PackedSequences]:
    """Pack a shard's documents in order; the result does not depend on how they are batched.

    Nothing is yielded for documents of which no token can be predicted.

    Args:
        documents: frames with `document_id`, `source_row` and `text`, and `form` if some are more than a text.
        tokenization: the model's.
        length: the largest number of tokens in a sequence, at least 2.
        shard_id: the documents' shard.
        packing: `packed` fills each sequence with one document after the other; with `one_document` each document
            begins a sequence, and one that is too long goes on in the next.
        documents_see_each_other: whether the model reads what is before a document in its packed sequence; if not,
            each run of a document is a sequence.
        prepare: makes tokens of the documents that have a form.

    Yields:
        At most 1024 sequences at a time, and about a million tokens.

    Raises:
        InputError: a document has a token beyond the model's vocabulary; the error names the document.
    """
    batch_sequences = min(_BATCH_SEQUENCES, max(1, _BATCH_TOKENS // length))
    pieces = _pieces(documents, tokenization, shard_id, prepare)
    rows = _separate_rows(pieces, length) if packing == "one_document" else _packed_rows(pieces, length)
    if not documents_see_each_other:
        rows = ([run] for row in rows for run in row)
    predicting = (row for row in rows if sum(map(len, row)) > 1)
    first_index = 0
    while batch := list(islice(predicting, batch_sequences)):
        yield _joined(batch, length, shard_id, first_index)
        first_index += len(batch)


def sequence_id(shard_id: str, sequence_index: int, tokens: NDArray[np.int32]) -> int:
    """Return a positive 63-bit number from the shard, the index in it and the tokens (int32 [T], no padding)."""
    content = f"{shard_id}\0{sequence_index}\0".encode() + tokens.astype("<i4").tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def _pieces(
    documents: Iterable[pl.DataFrame], tokenization: Tokenization, shard_id: str, prepare: Prepare | None
) -> Iterator[_Piece]:
    """Yield each whole document with the tokens that packing adds around it."""
    for frame in documents:
        for rows in frame.iter_slices(_ENCODED_AT_ONCE):
            texts = rows["text"].to_list()
            places = [f"{shard_id}, row {row}" for row in rows["source_row"]]
            forms = rows["form"].to_list() if "form" in rows.columns else [None] * len(rows)
            plain = [number for number, form in enumerate(forms) if form is None]
            encoded = tokenization.encode_batch([texts[n] for n in plain], [places[n] for n in plain])
            prepared = dict(zip(plain, map(_as_text, encoded), strict=True))
            for number, (identity, form) in enumerate(zip(rows["document_id"], forms, strict=True)):
                if form is not None:
                    assert prepare is not None  # noqa: S101  # callers with such documents give it
                    prepared[number] = prepare(form, texts[number], places[number])
                yield _surrounded(identity, texts[number], prepared[number], tokenization)


def _as_text(tokens: TokenizedText) -> Prepared:
    return Prepared(tokens, np.ones(len(tokens), np.uint8), is_complete=False)


def _surrounded(document_id: str, text: str, prepared: Prepared, tokenization: Tokenization) -> _Piece:
    inner, loss = prepared.tokens, prepared.loss
    prefix, suffix = tokenization.before(inner), tokenization.after(inner)
    if prepared.is_complete:
        prefix, suffix = [], []
    at_start, at_end = [0] * len(prefix), [len(text)] * len(suffix)
    return _Piece(
        document_id,
        text,
        np.concatenate([prefix, inner.tokens, suffix]).astype(np.int32),
        np.concatenate([at_start, inner.character_start, at_end]).astype(np.int32),
        np.concatenate([at_start, inner.character_end, at_end]).astype(np.int32),
        # What ends a completion is learnt as it is; what begins a prompt is learnt where all of the prompt is.
        np.concatenate([[loss.all()] * len(prefix), loss, [1] * len(suffix)]).astype(np.uint8),
    )


def _packed_rows(pieces: Iterable[_Piece], length: int) -> Iterator[list[_Piece]]:
    """Yield the runs of documents in each sequence; all sequences are full except the last."""
    row: list[_Piece] = []
    room = length
    for document in pieces:
        rest = document
        while len(rest) >= room:
            yield [*row, rest[:room]]
            rest = rest[room:]
            row, room = [], length
        if len(rest):
            row.append(rest)
            room -= len(rest)
    if row:
        yield row


def _separate_rows(pieces: Iterable[_Piece], length: int) -> Iterator[list[_Piece]]:
    """Yield each document in sequences of its own."""
    for document in pieces:
        for start in range(0, len(document), length):
            yield [document[start : start + length]]


def _joined(rows: list[list[_Piece]], length: int, shard_id: str, first_index: int) -> PackedSequences:
    """Return sequences, each made of the runs of one row."""
    n = len(rows)
    lengths = np.array([sum(map(len, row)) for row in rows], dtype=np.int32)
    held = np.arange(length) < lengths[:, None]
    pieces = [piece for row in rows for piece in row]
    tokens = _padded([piece.tokens for piece in pieces], held)
    identities = [
        sequence_id(shard_id, first_index + row, tokens[row, : lengths[row]])  # without the padding
        for row in range(n)
    ]
    spans = [list(_spans(row, number)) for number, row in enumerate(rows)]
    sequences = pl.DataFrame(
        {
            "sequence_id": identities,
            "shard_id": [shard_id] * n,
            "sequence_index": range(first_index, first_index + n),
            "tokens": lengths,
            "text": [DOCUMENT_SEPARATOR.join(span.text for span in row if span.text) for row in spans],
        },
        schema=SEQUENCE_SCHEMA,
    )
    return PackedSequences(
        tokens,
        lengths,
        _padded([piece.character_start for piece in pieces], held),
        _padded([piece.character_end for piece in pieces], held),
        _padded([piece.loss for piece in pieces], held).astype(np.uint8),
        sequences,
        _span_frame([span for row in spans for span in row], identities),
    )


def _padded(runs: Sequence[NDArray[Any]], held: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Join runs one after the other as int32 [n, length], where `held` is true; elsewhere it is 0."""
    padded = np.zeros(held.shape, dtype=np.int32)
    padded[held] = np.concatenate(runs)
    return padded


def _spans(row: list[_Piece], sequence: int) -> Iterator[_Span]:
    """Yield each document's part of a sequence, in order; together they cover every token once."""
    position = 0
    for piece in row:
        start, end = int(piece.character_start.min()), int(piece.character_end.max())
        yield _Span(sequence, piece.document_id, position, position + len(piece), start, end, piece.text[start:end])
        position += len(piece)


def _span_frame(spans: list[_Span], identities: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "sequence_id": [identities[span.sequence] for span in spans],
            **{name: [getattr(span, name) for span in spans] for name in SEQUENCE_DOCUMENT_SCHEMA.names()[1:]},
        },
        schema=SEQUENCE_DOCUMENT_SCHEMA,
    )
