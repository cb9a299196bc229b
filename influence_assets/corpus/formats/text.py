"""Source files that are one document each: plain text and Markdown, plain or compressed.

Such a file is one row, after decompression. No other format reads a whole file into memory; its size is limited by
`corpus.max_document_bytes`.
"""

import codecs
import io
from collections.abc import Generator
from typing import Any

from influence_assets.corpus.source_format import SourceFormat
from influence_assets.corpus.stored_rows import Place, StoredRow, too_long
from influence_assets.corpus.streams import decompressed, packed
from influence_assets.corpus.utf8 import decoded
from influence_assets.study import Corpus


def _rows(raw: io.BufferedReader, url: str, corpus: Corpus, _first: Place) -> Generator[StoredRow, None, None]:
    with decompressed(raw, url) as stream:
        # Read past the byte-order mark, and one byte more than a document may have, which shows that it is too long.
        row = StoredRow(1, stream.read(len(codecs.BOM_UTF8) + corpus.max_document_bytes + 1))
    if row.content:
        yield row


def _columns(row: StoredRow, where: str, corpus: Corpus) -> dict[str, Any] | None:
    if not row.payload:
        return None
    if len(row.payload) > corpus.max_document_bytes:
        raise too_long(where, corpus)
    no_id = {} if corpus.id_column is None else {corpus.id_column: None}
    return {**no_id, corpus.text_column: decoded(row.payload, where)}


FORMAT = SourceFormat(
    name="text", suffixes=packed(".txt") + packed(".md"), rows=_rows, columns=_columns, has_columns=False
)
