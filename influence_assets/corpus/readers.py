"""Readers: the rows of one source file, streamed as frames of about 8 MiB of text.

A file is never in memory as a whole; the exception is a .txt or .md file, which is one document
and no longer than `corpus.max_document_bytes`. The text is kept exactly as it is, because the
model was trained on it: only a byte-order mark at the start of a file is dropped.
"""

import codecs
import json
from collections.abc import Collection, Iterator
from typing import Any

import polars as pl
import pyarrow  # type: ignore[import-untyped]
from pyarrow import parquet

from influence_assets.corpus import columns
from influence_assets.corpus.sources import JSONL_SUFFIXES, PARQUET_SUFFIXES, SourceFile
from influence_assets.corpus.streams import bounded_lines, open_decompressed, open_raw
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
_TOO_LONG_REMEDY = "Split the document, or raise corpus.max_document_bytes."


def read_rows(source: SourceFile, corpus: Corpus) -> Iterator[pl.DataFrame]:
    """The rows of a source file in order, as frames of `ROW_SCHEMA`; `source_row` counts from 1.

    In a .jsonl file it is the number of the line: empty lines are passed over, but counted.

    Raises:
        InputError: naming the file and row: the file is empty, cut short or damaged, or a row is not
            JSON, not UTF-8, has no text column, or its text is no string, empty or too long.
    """
    if source.bytes == 0:
        raise _empty(source)
    batch: list[dict[str, Any]] = []
    characters = 0
    empty = True
    for source_row, row in _rows(source, corpus):
        described = _described(source_row, row, corpus, f"{source.url}, row {source_row}")
        batch.append(described)
        characters += len(described["text"]) + len(described["metadata"] or "")
        empty = False
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_ROWS:
            yield pl.DataFrame(batch, schema=ROW_SCHEMA)
            batch, characters = [], 0
    if empty:
        raise _empty(source)
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


def _rows(source: SourceFile, corpus: Corpus) -> Iterator[tuple[int, dict[str, Any]]]:
    name = source.shard_id
    if name.endswith(JSONL_SUFFIXES):
        # JSON's escapes make a document up to three times as long, save for control characters;
        # the 1 MiB is for the row's other columns.
        return json_rows(source.url, 3 * corpus.max_document_bytes + 2**20, _TOO_LONG_REMEDY)
    if name.endswith(PARQUET_SUFFIXES):
        return _parquet_rows(source.url, corpus)
    return _whole_text(source.url, corpus)


def _parquet_rows(url: str, corpus: Corpus) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by batches of about 8 MiB (polars has no stable way to stream batches, pyarrow has)."""
    number = 0
    try:
        # With pre_buffer, whole row groups would be read at once.
        with open_raw(url) as stream, parquet.ParquetFile(stream, buffer_size=2**20, pre_buffer=False) as file:
            _check_columns(file.schema_arrow.names, corpus, url)
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            row_bytes = sum(group.total_byte_size for group in groups) // max(1, file.metadata.num_rows)
            batch_rows = min(_BATCH_ROWS, max(1, _BATCH_CHARACTERS // max(1, row_bytes)))
            for batch in file.iter_batches(batch_size=batch_rows):
                for row in pl.DataFrame(pyarrow.Table.from_batches([batch])).iter_rows(named=True):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        where = f"{url}, after row {number}"
        raise InputError(where, f"cannot be read as Parquet ({error})", "Write the file again.") from error


def _whole_text(url: str, corpus: Corpus) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_decompressed(url) as stream:
        # Read past the mark, and one byte more than a document may have.
        content = stream.read(len(codecs.BOM_UTF8) + corpus.max_document_bytes + 1).removeprefix(codecs.BOM_UTF8)
    if not content:
        return
    if len(content) > corpus.max_document_bytes:
        raise _too_long(f"{url}, row 1", corpus)
    no_id = {} if corpus.id_column is None else {corpus.id_column: None}
    try:
        yield 1, {**no_id, corpus.text_column: content.decode("utf-8")}
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"{url}, row 1"
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
        raise _too_long(where, corpus)


def _too_long(where: str, corpus: Corpus) -> InputError:
    problem = f"the document has more than {corpus.max_document_bytes:,} bytes"
    return InputError(where, problem, _TOO_LONG_REMEDY)


def _empty(source: SourceFile) -> InputError:
    return InputError(source.url, "the file is empty", "Remove it, or put rows in it.")
