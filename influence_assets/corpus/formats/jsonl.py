r"""Source files with one JSON object per line, plain or compressed.

Every line after decompression is a row, including its `\n` and even if it is empty, so that compressing a file again
changes nothing.
"""

import codecs
import io
import json
from collections.abc import Generator, Iterator
from typing import Any

from influence_assets.corpus.source_format import SourceFormat
from influence_assets.corpus.stored_rows import TOO_LONG_REMEDY, Place, StoredRow
from influence_assets.corpus.streams import bounded_lines, decompressed, open_decompressed, packed, skip
from influence_assets.corpus.utf8 import ENCODING_REMEDY
from influence_assets.errors import InputError
from influence_assets.study import Corpus

SUFFIXES = packed(".jsonl")

_ROW_REMEDY = "Write one JSON object a line."


def json_rows(url: str, line_bytes: int, remedy: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file, each with the number of its line.

    Args:
        url: the file.
        line_bytes: the longest line that is accepted, in bytes.
        remedy: what to do about a longer line, for the error.

    Raises:
        InputError: a row is longer than `line_bytes`, not UTF-8, not JSON or not an object; the error names it.
    """
    for number, line in json_lines(url, line_bytes, remedy):
        yield number, parsed(line, f"{url}, row {number}")


def json_lines(url: str, line_bytes: int, remedy: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not empty, each with its number; arguments as in `json_rows`.

    Raises:
        InputError: a line is longer than `line_bytes`; the error names it.
    """
    with open_decompressed(url) as stream:
        for number, line in bounded_lines(stream, line_bytes, url, remedy):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


def line_limit(corpus: Corpus) -> int:
    """Return the longest line that is accepted, in bytes.

    JSON's escapes make a document up to three times as long, apart from control characters; the 1 MiB is for the row's
    other columns.
    """
    return 3 * corpus.max_document_bytes + 2**20


def _rows(raw: io.BufferedReader, url: str, corpus: Corpus, first: Place) -> Generator[StoredRow, None, None]:
    with decompressed(raw, url) as stream:
        skip(stream, first.offset, url)
        for number, line in bounded_lines(stream, line_limit(corpus), url, TOO_LONG_REMEDY, first.number):
            yield StoredRow(number, line)


def _columns(row: StoredRow, where: str, _corpus: Corpus) -> dict[str, Any] | None:
    return parsed(row.payload, where) if row.payload.strip() else None


def parsed(line: bytes, where: str) -> dict[str, Any]:
    """Return the object that a line holds.

    Raises:
        InputError: it is not UTF-8, not JSON or not an object; the error names `where`.
    """
    try:
        text = line.decode("utf-8")
        # NaN and Infinity, which some writers put where JSON has null, are read as null.
        row = json.loads(text, parse_constant=lambda _: None)
        if "\\u" in text:  # an escape can name half of a surrogate pair, which is no character
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(where, f"is not UTF-8 (byte {error.start + 1} of the row)", ENCODING_REMEDY) from error
    except UnicodeEncodeError as error:
        raise InputError(where, "holds half of a surrogate pair (\\ud800 …)", "Correct that character.") from error
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(where, f"is not JSON ({reason})", _ROW_REMEDY) from error
    if not isinstance(row, dict):
        # Without the row itself: errors are kept in Dagster's history, and the document may be withdrawn.
        raise InputError(where, "is JSON, but not an object", _ROW_REMEDY)
    return row


FORMAT = SourceFormat(name="jsonl", suffixes=SUFFIXES, rows=_rows, columns=_columns)
