"""The rows of a file as bytes, laid end to end; slices are cut between them, and their bytes are hashed."""

import codecs
from typing import Any, NamedTuple

from influence_assets.errors import InputError
from influence_assets.study import Corpus

TOO_LONG_REMEDY = "Split the document, or raise corpus.max_document_bytes."


class StoredRow(NamedTuple):
    """A row of a file.

    Attributes:
        number: its number in the file, from 1; for a line, this is the line's number.
        content: its bytes.
        columns: its values by column, if the format knows them as soon as the row is read; else None, and the row is
            parsed when it is needed.
    """

    number: int
    content: bytes
    columns: dict[str, Any] | None = None

    @property
    def payload(self) -> bytes:
        """The bytes without the byte-order mark that may begin a file."""
        return self.content.removeprefix(codecs.BOM_UTF8) if self.number == 1 else self.content


class Place(NamedTuple):
    """The beginning of a row: the number of bytes before it, and its own number."""

    offset: int = 0
    number: int = 1


def too_long(where: str, corpus: Corpus) -> InputError:
    """Return the error for a document that is longer than the study allows."""
    problem = f"the document has more than {corpus.max_document_bytes:,} bytes"
    return InputError(where, problem, TOO_LONG_REMEDY)
