"""Packing: documents are joined one after the other and cut into training sequences of one length.

The range of characters of its document is kept for every token. A token that packing adds has an empty range: the
template's prefix at the document's start, the separator at its end. The last sequence is padded with token 0 (see
`lengths`); a last sequence of a single token predicts nothing and is dropped.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.corpus.tokenization import Tokenization, TokenizedText

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
        sequences: frame of `SEQUENCE_SCHEMA`, n rows. `text` is the source text of the tokens, not their decoding, with
            an empty line between documents.
        sequence_documents: frame of `SEQUENCE_DOCUMENT_SCHEMA`, one row for each document's run of tokens.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    character_start: NDArray[np.int32]
    character_end: NDArray[np.int32]
    sequences: pl.DataFrame
    sequence_documents: pl.DataFrame


@dataclass(frozen=True, eq=False)
class _Piece:
    """A run of tokens of one document."""

    document_id: str
    text: str
    tokens: NDArray[np.int32]
    character_start: NDArray[np.int32]
    character_end: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, run: slice) -> "_Piece":
        starts, ends = self.character_start[run], self.character_end[run]
        return _Piece(self.document_id, self.text, self.tokens[run], starts, ends)


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


def pack(
    documents: Iterable[pl.DataFrame], tokenization: Tokenization, length: int, shard_id: str
) -> Iterator[PackedSequences]:
    """Pack a shard's documents in order; the result does not depend on how they are batched.

    Nothing is yielded for documents that have fewer than two tokens in total.

    Args:
        documents: frames with `document_id`, `source_row` and `text`.
        tokenization: the model's.
        length: tokens in a sequence, at least 2.
        shard_id: the documents' shard.

    Yields:
        At most 1024 sequences at a time, and about a million tokens.

    Raises:
        InputError: a document has a token beyond the model's vocabulary; the error names the document.
    """
    batch_sequences = min(_BATCH_SEQUENCES, max(1, _BATCH_TOKENS // length))
    pending: list[_Piece] = []
    room = batch_sequences * length
    first_index = 0
    for document in _pieces(documents, tokenization, shard_id):
        rest = document
        while len(rest) >= room:
            pending.append(rest[:room])
            rest = rest[room:]
            yield _cut(pending, length, shard_id, first_index)
            pending, room = [], batch_sequences * length
            first_index += batch_sequences
        if len(rest):
            pending.append(rest)
            room -= len(rest)
    pending = _without_lone_token(pending, length)
    if pending:
        yield _cut(pending, length, shard_id, first_index)


def sequence_id(shard_id: str, sequence_index: int, tokens: NDArray[np.int32]) -> int:
    """Return a positive 63-bit number from the shard, the index in it and the tokens (int32 [T], no padding)."""
    content = f"{shard_id}\0{sequence_index}\0".encode() + tokens.astype("<i4").tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def _pieces(documents: Iterable[pl.DataFrame], tokenization: Tokenization, shard_id: str) -> Iterator[_Piece]:
    """Yield each whole document with the tokens that packing adds around it."""
    for frame in documents:
        for rows_at_once in frame.select("document_id", "source_row", "text").iter_slices(_ENCODED_AT_ONCE):
            identities, rows, texts = (rows_at_once[name].to_list() for name in rows_at_once.columns)
            places = [f"{shard_id}, row {row}" for row in rows]
            encoded = tokenization.encode_batch(texts, places)
            for identity, text, inner in zip(identities, texts, encoded, strict=True):
                yield _surrounded(identity, text, inner, tokenization)


def _surrounded(document_id: str, text: str, inner: TokenizedText, tokenization: Tokenization) -> _Piece:
    prefix, suffix = tokenization.before(inner), tokenization.after(inner)
    at_start, at_end = [0] * len(prefix), [len(text)] * len(suffix)
    return _Piece(
        document_id,
        text,
        np.concatenate([prefix, inner.tokens, suffix]).astype(np.int32),
        np.concatenate([at_start, inner.character_start, at_end]).astype(np.int32),
        np.concatenate([at_start, inner.character_end, at_end]).astype(np.int32),
    )


def _without_lone_token(pieces: list[_Piece], length: int) -> list[_Piece]:
    """Return the pieces, without their last token if a sequence would consist of it alone."""
    if sum(map(len, pieces)) % length != 1:
        return pieces
    shortened = pieces[-1][:-1]
    return [*pieces[:-1], *([shortened] if len(shortened) else [])]


def _cut(pieces: list[_Piece], length: int, shard_id: str, first_index: int) -> PackedSequences:
    """Cut a run of pieces into sequences, all of them full except the last."""
    total = sum(map(len, pieces))
    n = -(-total // length)
    lengths = np.full(n, length, dtype=np.int32)
    lengths[-1] = total - (n - 1) * length
    tokens = _rows([piece.tokens for piece in pieces], n, length)
    identities = [
        sequence_id(shard_id, first_index + row, tokens[row, : lengths[row]])  # without the padding
        for row in range(n)
    ]
    spans = list(_spans(pieces, length))
    texts: list[list[str]] = [[] for _ in range(n)]
    for span in spans:
        if span.text:
            texts[span.sequence].append(span.text)
    sequences = pl.DataFrame(
        {
            "sequence_id": identities,
            "shard_id": [shard_id] * n,
            "sequence_index": range(first_index, first_index + n),
            "tokens": lengths,
            "text": [DOCUMENT_SEPARATOR.join(parts) for parts in texts],
        },
        schema=SEQUENCE_SCHEMA,
    )
    return PackedSequences(
        tokens,
        lengths,
        _rows([piece.character_start for piece in pieces], n, length),
        _rows([piece.character_end for piece in pieces], n, length),
        sequences,
        _span_frame(spans, identities),
    )


def _rows(runs: list[NDArray[np.int32]], n: int, length: int) -> NDArray[np.int32]:
    """Join runs one after the other as int32 [n, length], padded with 0."""
    flat = np.zeros(n * length, dtype=np.int32)
    joined = np.concatenate(runs)
    flat[: len(joined)] = joined
    return flat.reshape(n, length)


def _spans(pieces: list[_Piece], length: int) -> Iterator[_Span]:
    """Yield each document's part of each sequence, in order; together they cover every token once."""
    position = 0
    for piece in pieces:
        taken = 0
        while taken < len(piece):
            sequence, token_start = divmod(position, length)
            size = min(length - token_start, len(piece) - taken)
            part = piece[taken : taken + size]
            start, end = int(part.character_start.min()), int(part.character_end.max())
            text = piece.text[start:end]
            yield _Span(sequence, piece.document_id, token_start, token_start + size, start, end, text)
            taken += size
            position += size


def _span_frame(spans: list[_Span], identities: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "sequence_id": [identities[span.sequence] for span in spans],
            **{name: [getattr(span, name) for span in spans] for name in SEQUENCE_DOCUMENT_SCHEMA.names()[1:]},
        },
        schema=SEQUENCE_DOCUMENT_SCHEMA,
    )
