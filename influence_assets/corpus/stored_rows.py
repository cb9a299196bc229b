r"""The rows of a file as bytes, laid end to end: what slices are cut from and hashed over.

A row of a .jsonl file is its line, `\n` included, empty lines too; a .txt or .md file is one row.
Both are taken after decompression, so that packing a file anew changes nothing. Parquet stores
columns, not rows; a row of it is stood for by a JSON text of all its columns.
"""

import codecs
import io
import json
from collections.abc import Generator
from datetime import date, time
from typing import Any, NamedTuple

import polars as pl
import pyarrow  # type: ignore[import-untyped]
from pyarrow import parquet

from influence_assets.corpus.sources import JSONL_SUFFIXES, PARQUET_SUFFIXES
from influence_assets.corpus.streams import bounded_lines, decompressed, skip
from influence_assets.errors import InputError
from influence_assets.study import Corpus

TOO_LONG_REMEDY = "Split the document, or raise corpus.max_document_bytes."

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 2**14


class StoredRow(NamedTuple):
    """A row of a file.

    Attributes:
        number: its number in the file, from 1; of a line, the line's.
        content: its bytes.
        columns: what a Parquet file says of it; of other files, None: their rows are yet to be parsed.
    """

    number: int
    content: bytes
    columns: dict[str, Any] | None = None

    @property
    def payload(self) -> bytes:
        """The bytes without the byte-order mark that may begin a file."""
        return self.content.removeprefix(codecs.BOM_UTF8) if self.number == 1 else self.content


class Place(NamedTuple):
    """Where a row begins: the bytes before it, and its number."""

    offset: int = 0
    number: int = 1


def stored_rows(raw: io.BufferedReader, url: str, corpus: Corpus, first: Place) -> Generator[StoredRow, None, None]:
    """The rows of an open file, from the one that begins at `first`.

    Raises:
        InputError: naming the file and row: the file is cut short or damaged, or a row is too long.
    """
    raw.seek(0)
    if url.endswith(JSONL_SUFFIXES):
        return _lines(raw, url, line_limit(corpus), first)
    if url.endswith(PARQUET_SUFFIXES):
        return _parquet_rows(raw, url, first)
    return _whole_text(raw, url, corpus)


def line_limit(corpus: Corpus) -> int:
    """The longest line of a .jsonl file that is read, in bytes.

    JSON's escapes make a document up to three times as long, save for control characters; the
    1 MiB is for the row's other columns.
    """
    return 3 * corpus.max_document_bytes + 2**20


def uncompressed_bytes(raw: io.BufferedReader, url: str) -> int:
    """What a Parquet file says of the size of its columns.

    Raises:
        InputError: it is not one.
    """
    raw.seek(0)
    try:
        with parquet.ParquetFile(raw) as file:
            return _column_bytes(file)
    except pyarrow.ArrowException as error:
        raise _not_parquet(url, error) from error


def too_long(where: str, corpus: Corpus) -> InputError:
    """The refusal of a document that is longer than the study allows."""
    problem = f"the document has more than {corpus.max_document_bytes:,} bytes"
    return InputError(where, problem, TOO_LONG_REMEDY)


def _lines(raw: io.BufferedReader, url: str, limit: int, first: Place) -> Generator[StoredRow, None, None]:
    with decompressed(raw, url) as stream:
        skip(stream, first.offset, url)
        for number, line in bounded_lines(stream, limit, url, TOO_LONG_REMEDY, first.number):
            yield StoredRow(number, line)


def _whole_text(raw: io.BufferedReader, url: str, corpus: Corpus) -> Generator[StoredRow, None, None]:
    with decompressed(raw, url) as stream:
        # Read past the byte-order mark, and one byte more than a document may have.
        row = StoredRow(1, stream.read(len(codecs.BOM_UTF8) + corpus.max_document_bytes + 1))
    if len(row.payload) > corpus.max_document_bytes:
        raise too_long(f"{url}, row 1", corpus)
    if row.content:
        yield row


def _parquet_rows(raw: io.BufferedReader, url: str, first: Place) -> Generator[StoredRow, None, None]:
    """Rows by batches of about 8 MiB (polars has no stable way to stream batches, pyarrow has)."""
    number = first.number - 1
    try:
        # With pre_buffer, whole row groups would be read at once.
        with parquet.ParquetFile(raw, buffer_size=2**20, pre_buffer=False) as file:
            groups, passed = _row_groups_from(file, number)
            row_bytes = _column_bytes(file) // max(1, file.metadata.num_rows)
            batch_rows = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(1, row_bytes)))
            for batch in file.iter_batches(batch_size=batch_rows, row_groups=groups):
                rest = batch.slice(min(passed, batch.num_rows))
                passed -= batch.num_rows - rest.num_rows
                for columns in pl.DataFrame(pyarrow.Table.from_batches([rest])).iter_rows(named=True):
                    number += 1
                    yield StoredRow(number, _canonical(columns), columns)
    except (pyarrow.ArrowException, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise _not_parquet(f"{url}, after row {number}", error) from error


def _row_groups_from(file: Any, row: int) -> tuple[list[int], int]:
    """The row groups from the one with the row that so many come before, and how many of its own do."""
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return list(range(group, file.metadata.num_row_groups)), row
        row -= rows
    return [], 0


def _column_bytes(file: Any) -> int:
    return sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))


def _canonical(columns: dict[str, Any]) -> bytes:
    """A JSON text that differs wherever the columns do."""
    return json.dumps(columns, ensure_ascii=False, separators=(",", ":"), default=_typed).encode() + b"\n"


def _typed(value: Any) -> dict[str, str]:
    """What JSON has no type for, under its type's name, so that a date is not the string that it looks like."""
    if isinstance(value, bytes):
        text = value.hex()
    else:
        text = value.isoformat() if isinstance(value, date | time) else str(value)
    return {f"\0{type(value).__name__}": text}


def _not_parquet(where: str, error: Exception) -> InputError:
    return InputError(where, f"cannot be read as Parquet ({error})", "Write the file again.")
