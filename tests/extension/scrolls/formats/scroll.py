"""Source files of scrolls: records between lines of `%%`, each a title and, below it, the text."""

import io
from collections.abc import Generator
from typing import Any

from influence_assets.corpus.source_format import SourceFormat
from influence_assets.corpus.stored_rows import TOO_LONG_REMEDY, Place, StoredRow
from influence_assets.corpus.streams import bounded_lines, decompressed, packed, skip
from influence_assets.corpus.utf8 import decoded
from influence_assets.errors import InputError
from influence_assets.study import Corpus

SEPARATOR = b"%%"


def _rows(raw: io.BufferedReader, url: str, corpus: Corpus, first: Place) -> Generator[StoredRow, None, None]:
    number, record = first.number, b""
    with decompressed(raw, url) as stream:
        skip(stream, first.offset, url)
        for _line, content in bounded_lines(stream, corpus.max_document_bytes, url, TOO_LONG_REMEDY):
            record += content
            if content.strip() == SEPARATOR:
                yield StoredRow(number, record)
                number, record = number + 1, b""
    if record:
        yield StoredRow(number, record)


def _columns(row: StoredRow, where: str, corpus: Corpus) -> dict[str, Any] | None:
    record = decoded(row.payload.strip().removesuffix(SEPARATOR), where).strip()
    if not record:
        return None
    title, _, text = record.partition("\n")
    if not text:
        raise InputError(where, "has a title and no text", "Write the text below the title.")
    return {"title": title, corpus.text_column: text}


FORMAT = SourceFormat(name="scroll", suffixes=packed(".scroll"), rows=_rows, columns=_columns)
