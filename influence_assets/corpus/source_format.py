"""What a source format says of itself, and which format a file is in.

A format is one file: a module of `influence_assets.corpus.formats`, of the folder `formats` of an extension, or of an
installed package, with a `SourceFormat` under the name `FORMAT`.
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
    """How files of some suffixes are read: cut into rows, hashed and parsed.

    A file's shards are cut between rows and known by a hash of their rows' bytes. So rows must be the same, byte for
    byte, however often a file is read, and rows that are added at the end of a file must leave the others as they are.

    Attributes:
        name: the format's name, unique among formats.
        suffixes: the endings of its files' names, each with its dot; see `streams.packed` for compressed ones.
        rows: yields the rows of an open file in order, from the one that begins at a place. It is given the file at its
            start, the file's URL (for errors and to decompress by), the study's corpus, and the place. It may raise
            `InputError`, naming file and row, where the file is cut short or damaged or a row is too long.
        columns: parses a row, given its place for errors and the study's corpus: what it says by column, or None of a
            row that holds nothing, such as an empty line. It is not asked of rows that bring their columns. May raise
            `InputError` naming the place.
        uncompressed_bytes: of formats that are not stored by rows: the size of an open file's content, given its URL,
            without reading its rows. A file of no more than `corpus.shard_bytes` of these is one shard, known by the
            hash of the file as it is stored. None where rows are all there is.
        version: raise it when the same file would give other rows or columns: what was computed is computed anew.
    """

    name: str
    suffixes: tuple[str, ...]
    rows: RowReader
    columns: Callable[[StoredRow, str, Corpus], dict[str, Any] | None]
    uncompressed_bytes: Callable[[io.BufferedReader, str], int] | None = None
    version: int = 1


def source_formats() -> tuple[SourceFormat, ...]:
    """Return all formats: the package's own, those of extension folders, and installed ones.

    Raises:
        InputError: a format's file cannot be imported, or two formats have a suffix in common.
    """
    return _discovered(tuple(extension_folders()))


def corpus_suffixes() -> tuple[str, ...]:
    """Return the endings of all files that can be part of a corpus."""
    return tuple(suffix for source_format in source_formats() for suffix in source_format.suffixes)


def format_of(name: str) -> SourceFormat:
    """Return the format of a file by its name's ending, the longest that fits.

    Raises:
        InputError: no format has such a suffix.
    """
    fitting = {suffix: one for one in source_formats() for suffix in one.suffixes if name.endswith(suffix)}
    if not fitting:
        remedy = "Name the extension that has it (`extensions` in the study), or install it again."
        raise InputError(name, "no source format has its suffix", remedy)
    return fitting[max(fitting, key=len)]


@lru_cache(maxsize=4)
def _discovered(_folders: tuple[Path, ...]) -> tuple[SourceFormat, ...]:
    formats = tuple(discover(ROOM, "FORMAT", SourceFormat).values())
    owners: dict[str, str] = {}
    for source_format in formats:
        for suffix in source_format.suffixes:
            owner = owners.setdefault(suffix, source_format.name)
            if owner != source_format.name:
                problem = f"{suffix} is a suffix of {owner} and of {source_format.name}"
                raise InputError("source formats", problem, "Take it out of one of them.")
    return formats
