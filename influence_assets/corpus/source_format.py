"""The contract of source formats, and the lookup of a file's format.

A format is one file: a module of `influence_assets.corpus.formats`, of an extension's folder `formats`, or of an
installed package, that defines a `SourceFormat` under the name `FORMAT`.
"""

import io
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from influence_assets.corpus.stored_rows import Place, StoredRow
from influence_assets.errors import InputError
from influence_assets.extensions import discover, extension_folders
from influence_assets.study import Corpus

ROOM = "influence_assets.corpus.formats"

RowReader = Callable[[io.BufferedReader, str, Corpus, Place], Generator[StoredRow, None, None]]


@dataclass(frozen=True, kw_only=True)
class SourceFormat:
    """A source format: how files with its suffixes are divided into rows, hashed and parsed.

    A file's shards are cut between rows and identified by a hash of their rows' bytes. So every reading of a file must
    give the same rows, byte for byte, and rows appended to a file must leave the others as they are. What a row means
    must follow from its bytes: a format with a header puts the names of its columns into every row (see
    `formats.parquet`), or a changed header would leave later rows as they were.

    Attributes:
        name: the format's name, unique among formats.
        suffixes: the endings of its files' names, each with its dot; see `streams.packed` for compressed ones.
        rows: yields the rows of an open file in order, from the one that begins at a place. Its arguments are the file
            at its start, the file's URL (for errors, and to choose the decompression), the study's corpus, and the
            place. It may raise `InputError`, naming file and row, if the file is cut short or damaged or a row is too
            long.
        columns: parses a row, given its place for errors and the study's corpus: returns its values by column, or None
            for a row without content, such as an empty line. It is not called for rows that come with their columns. It
            may raise `InputError`, naming the place.
        uncompressed_bytes: for formats that do not store rows: returns the size of an open file's content, given its
            URL, without reading its rows. A file of at most `corpus.shard_bytes` of these is one shard, identified by
            the hash of the stored file. None for formats that store rows.
        has_columns: whether rows can have other columns than text, so that they can be conversations.
        version: raise it when the same file would give other rows or columns; everything is then computed again.
    """

    name: str
    suffixes: tuple[str, ...]
    rows: RowReader
    columns: Callable[[StoredRow, str, Corpus], dict[str, Any] | None]
    uncompressed_bytes: Callable[[io.BufferedReader, str], int] | None = None
    has_columns: bool = True
    version: int = 1


def source_formats() -> tuple[SourceFormat, ...]:
    """Return all formats: the package's own, those of extension folders, and installed ones.

    Raises:
        InputError: a format's file cannot be imported, its suffixes are not endings of names, or two formats have a
            suffix in common.
    """
    return _discovered(tuple(extension_folders()))


def corpus_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all files that can be part of a corpus."""
    return tuple(suffix for source_format in source_formats() for suffix in source_format.suffixes)


def format_of(name: str) -> SourceFormat:
    """Return the format with the longest suffix that a file's name ends in.

    Raises:
        InputError: no format has such a suffix.
    """
    matching = {suffix: one for one in source_formats() for suffix in one.suffixes if name.endswith(suffix)}
    if not matching:
        remedy = "Name the extension that has it (`extensions` in the study), or install it again."
        raise InputError(name, "no source format has its suffix", remedy)
    return matching[max(matching, key=len)]


@lru_cache(maxsize=4)
def _discovered(_folders: tuple[Path, ...]) -> tuple[SourceFormat, ...]:
    formats = tuple(discover(ROOM, "FORMAT", SourceFormat).values())
    owners: dict[str, str] = {}
    for source_format in formats:
        if not (isinstance(source_format.suffixes, tuple) and all(map(_is_suffix, source_format.suffixes))):
            where = getattr(source_format.rows, "__code__", None)
            file = where.co_filename if where is not None else f"the source format {source_format.name}"
            problem = f"the suffixes of {source_format.name} are {source_format.suffixes!r}"
            raise InputError(file, problem, "Make them a tuple of strings that begin with a dot, such as ('.log',).")
        for suffix in source_format.suffixes:
            owner = owners.setdefault(suffix, source_format.name)
            if owner != source_format.name:
                problem = f"{suffix} is a suffix of {owner} and of {source_format.name}"
                raise InputError("source formats", problem, "Remove it from one of them.")
    return formats


def _is_suffix(suffix: object) -> bool:
    return isinstance(suffix, str) and suffix.startswith(".") and len(suffix) > 1
