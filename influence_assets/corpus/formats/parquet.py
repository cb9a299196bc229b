"""Source files of Apache Parquet.

Parquet stores columns, not rows, so a row's bytes are a JSON text of all its columns. A file that is one shard is
hashed as it is stored.
"""

import io
import json
from collections.abc import Generator
from datetime import date, time
from typing import Any

import polars as pl
import pyarrow  # type: ignore[import-untyped]
from pyarrow import parquet

from influence_assets.corpus.source_format import SourceFormat
from influence_assets.corpus.stored_rows import Place, StoredRow
from influence_assets.errors import InputError
from influence_assets.study import Corpus

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 2**14


def _rows(raw: io.BufferedReader, url: str, _corpus: Corpus, first: Place) -> Generator[StoredRow, None, None]:
    """Yield rows, read in batches of about 8 MiB (polars has no stable way to stream batches; pyarrow has)."""
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
    """Return the row groups from the one with this row on, and how many rows of that one come before the row."""
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < rows:
            return list(range(group, file.metadata.num_row_groups)), row
        row -= rows
    return [], 0


def _column_bytes(file: Any) -> int:
    return sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))


def _canonical(columns: dict[str, Any]) -> bytes:
    """Return a JSON text that is different for different columns."""
    return json.dumps(columns, ensure_ascii=False, separators=(",", ":"), default=_typed).encode() + b"\n"


def _typed(value: Any) -> dict[str, str]:
    """Return a value that JSON has no type for with its type's name, so that a date differs from its string."""
    if isinstance(value, bytes):
        text = value.hex()
    else:
        text = value.isoformat() if isinstance(value, date | time) else str(value)
    return {f"\0{type(value).__name__}": text}


def _uncompressed_bytes(raw: io.BufferedReader, url: str) -> int:
    """Return the size of a file's columns according to its metadata."""
    raw.seek(0)
    try:
        with parquet.ParquetFile(raw) as file:
            return _column_bytes(file)
    except pyarrow.ArrowException as error:
        raise _not_parquet(url, error) from error


def _columns(row: StoredRow, _where: str, _corpus: Corpus) -> dict[str, Any] | None:
    return row.columns


def _not_parquet(where: str, error: Exception) -> InputError:
    return InputError(where, f"cannot be read as Parquet ({error})", "Write the file again.")


FORMAT = SourceFormat(
    name="parquet", suffixes=(".parquet",), rows=_rows, columns=_columns, uncompressed_bytes=_uncompressed_bytes
)
