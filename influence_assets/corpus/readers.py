"""Readers: the rows of one shard, streamed as frames of about 8 MiB of text.

A shard is never in memory as a whole; the exception is a .txt or .md file, which is one document
and no longer than `corpus.max_document_bytes`. The text is kept exactly as it is, because the
model was trained on it: only a byte-order mark at the start of a file is dropped.
"""

import codecs
import json
from collections.abc import Collection, Iterator
from typing import Any

import polars as pl

from influence_assets.corpus import columns
from influence_assets.corpus.slices import Shard, read_slice
from influence_assets.corpus.sources import JSONL_SUFFIXES, SourceFile
from influence_assets.corpus.stored_rows import StoredRow, too_long
from influence_assets.corpus.streams import bounded_lines, open_decompressed
from influence_assets.errors import InputError
from influence_assets.study import Corpus

ROW_SCHEMA = pl.Schema(
    {
        "source_row": pl.Int64(),
        "external_id": pl.String(),
        **dict.fromkeys(columns.PROMOTED, pl.String()),
        "metadata": pl.String(),
        "text": pl.String(),
    }
)

_BATCH_CHARACTERS = 8 * 2**20
_BATCH_ROWS = 2**14
_ENCODING_REMEDY = "Convert the file to UTF-8, for example with iconv."


def read_rows(shard: Shard, corpus: Corpus) -> Iterator[pl.DataFrame]:
    """The rows of a shard in order, as frames of `ROW_SCHEMA`; `source_row` counts from the file's first.

    In a .jsonl file it is the number of the line: empty lines are passed over, but counted.

    Raises:
        InputError: naming the file and row: the file is empty, cut short or damaged, or no longer
            what the shard's hash says, or a row is not JSON, not UTF-8, has no text column, or its
            text is no string, empty or too long.
    """
    if shard.file.bytes == 0:
        raise _empty(shard.file)
    batch: list[dict[str, Any]] = []
    characters = 0
    empty = True
    for described in _described_rows(shard, corpus):
        batch.append(described)
        characters += len(described["text"]) + len(described["metadata"] or "")
        empty = False
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_ROWS:
            yield pl.DataFrame(batch, schema=ROW_SCHEMA)
            batch, characters = [], 0
    if empty:
        raise _empty(shard.file)
    if batch:
        yield pl.DataFrame(batch, schema=ROW_SCHEMA)


def json_rows(url: str, line_bytes: int, remedy: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file (plain, .gz or .zst), each with the number of its line.

    Args:
        url: of the file.
        line_bytes: the longest line that is read.
        remedy: what to do about a longer one.

    Raises:
        InputError: naming the row that is longer than `line_bytes`, not UTF-8, not JSON or not an object.
    """
    with open_decompressed(url) as stream:
        for number, line in bounded_lines(stream, line_bytes, url, remedy):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, _parsed(line, f"{url}, row {number}")


def _columns(row: StoredRow, url: str, corpus: Corpus) -> dict[str, Any] | None:
    """What a row says, by column; None where nothing is said."""
    if row.columns is not None:
        return row.columns
    if url.endswith(JSONL_SUFFIXES):
        line = row.payload
        return _parsed(line, f"{url}, row {row.number}") if line.strip() else None
    if not row.payload:
        return None
    no_id = {} if corpus.id_column is None else {corpus.id_column: None}
    return {**no_id, corpus.text_column: _decoded(row.payload, f"{url}, row {row.number}")}


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(where, f"line {line} is not UTF-8 (byte {error.start + 1})", _ENCODING_REMEDY) from error


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
        # NaN and Infinity, which some writers put where JSON has null, are read as null.
        row = json.loads(text, parse_constant=lambda _: None)
        if "\\u" in text:  # an escape can name half of a surrogate pair, which is no character
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(where, f"is not UTF-8 (byte {error.start + 1} of the row)", _ENCODING_REMEDY) from error
    except UnicodeEncodeError as error:
        raise InputError(where, "holds half of a surrogate pair (\\ud800 …)", "Mend that character.") from error
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(where, f"is not JSON ({reason})", "Write one JSON object a line.") from error
    if not isinstance(row, dict):
        raise InputError(where, f"is JSON, but not an object: {text.strip()[:40]}", "Write one JSON object a line.")
    return row


def _described_rows(shard: Shard, corpus: Corpus) -> Iterator[dict[str, Any]]:
    """The shard's rows as those of `ROW_SCHEMA`."""
    url = shard.file.url
    stored = read_slice(shard, corpus)
    try:
        for row in stored:
            columns_of_row = _columns(row, url, corpus)
            if columns_of_row is not None:
                yield _described(row.number, columns_of_row, corpus, f"{url}, row {row.number}")
    except InputError:
        if shard.is_readable:
            # Read on: that the file is being written is the truer reason, and only the end tells.
            for _ in stored:
                pass
        raise


def _described(source_row: int, row: dict[str, Any], corpus: Corpus, where: str) -> dict[str, Any]:
    """A row of `ROW_SCHEMA` from a row of a file."""
    _check_columns(row, corpus, where)
    external_id = None if corpus.id_column is None else columns.as_string(row[corpus.id_column])
    text = row.pop(corpus.text_column)
    _check_text(text, corpus, where)
    if corpus.id_column is not None and corpus.id_column not in columns.PROMOTED:
        row.pop(corpus.id_column, None)
    own_columns = columns.promoted(row)
    return {
        "source_row": source_row,
        "external_id": external_id,
        **own_columns,
        "metadata": columns.metadata(row),
        "text": text,
    }


def _check_columns(names: Collection[str], corpus: Corpus, where: str) -> None:
    for key, column in (("text_column", corpus.text_column), ("id_column", corpus.id_column)):
        if column is not None and column not in names:
            there = ", ".join(names) or "none"
            remedy = f"Set corpus.{key} to one of the columns that are there: {there}."
            raise InputError(where, f"has no column `{column}`", remedy)


def _check_text(text: Any, corpus: Corpus, where: str) -> None:
    key = f"`{corpus.text_column}`"
    if not isinstance(text, str):
        kind = "null" if text is None else f"a {type(text).__name__}"
        raise InputError(where, f"{key} is {kind}, not a string", "Remove the row, or give it text.")
    if not text.strip():
        raise InputError(where, f"{key} is empty or only white space", "Remove the row, or give it text.")
    if len(text.encode("utf-8")) > corpus.max_document_bytes:
        raise too_long(where, corpus)


def _empty(source: SourceFile) -> InputError:
    return InputError(source.url, "the file is empty", "Remove it, or put rows in it.")
