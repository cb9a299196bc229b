"""Listings of the corpus's source files and of the query files.

A query file is one query set, a source file is one shard or several (see `slices`). A file's name is its path relative
to the folder and also a Dagster partition key; names that cannot be one are refused here.
"""

import unicodedata
from dataclasses import dataclass

from influence_assets.corpus.formats import jsonl
from influence_assets.corpus.listing import ListedFile, MissingError, file_at, files_below, other_files
from influence_assets.corpus.source_format import corpus_suffixes
from influence_assets.errors import InputError
from influence_assets.study import Corpus

QUERY_SUFFIXES = jsonl.SUFFIXES

_LONGEST_NAME = 200
# Control characters, halves of surrogate pairs (names that are not UTF-8), line and paragraph separators.
_REFUSED_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus or of the queries.

    Attributes:
        name: its path relative to the folder, with forward slashes; for a query file, this is the query_set_id.
        url: a local path, or an fsspec URL.
        bytes: its size as it is stored (compressed, if it is).
    """

    name: str
    url: str
    bytes: int


def list_source_files(path: str) -> list[SourceFile]:
    """Return the corpus's readable files, sorted by name.

    Hidden files and folders, and files with other suffixes, are skipped.

    Raises:
        InputError: the folder is missing or contains no readable file, something below it cannot be read or is neither
            a file nor a real folder, or a name cannot be a partition key.
    """
    remedy = "Set corpus.path to the folder that holds the documents."
    try:
        files = files_below(path, corpus_suffixes())
    except MissingError:
        raise InputError(path, "no such folder", remedy) from None
    if files is None:
        raise InputError(path, "is a file, not a folder", remedy)
    return _named(files, path, corpus_suffixes())


def unread_files(corpus: Corpus) -> list[str]:
    """Return the names of the files in the corpus's folder that no source format reads, sorted."""
    names = other_files(corpus.path, corpus_suffixes())
    return [name for name in names if f"{corpus.path}/{name}" != corpus.withdrawn]


def list_query_files(path: str) -> list[SourceFile]:
    """Return the query files, sorted by query_set_id: one .jsonl file (plain, .gz or .zst), or a folder of them.

    Raises:
        InputError: the path is missing or contains no .jsonl file, something below it cannot be read, or a name cannot
            be a query_set_id.
    """
    try:
        files = files_below(path, QUERY_SUFFIXES)
        if files is not None:
            return _named(files, path, QUERY_SUFFIXES)
        file = file_at(path)
    except MissingError:
        remedy = "Set queries.path to a .jsonl file or a folder of them."
        raise InputError(path, "no such file or folder", remedy) from None
    if not file.name.endswith(QUERY_SUFFIXES):
        raise InputError(path, "is not a .jsonl file", "Write one JSON object with prompt and completion a line.")
    return _named([file], path, QUERY_SUFFIXES)


def nothing_listed(path: str, suffixes: tuple[str, ...]) -> InputError:
    """Return the error for a folder without any file that can be read."""
    remedy = f"Put files there that end in {', '.join(suffixes)}; if a disk belongs there, mount it."
    return InputError(path, "holds no readable file", remedy)


def _named(files: list[ListedFile], path: str, suffixes: tuple[str, ...]) -> list[SourceFile]:
    if not files:
        raise nothing_listed(path, suffixes)
    return [SourceFile(_legal(file.name, path), file.url, file.bytes) for file in files]


def _legal(name: str, path: str) -> str:
    """Return a name after checking that it can be a Dagster partition key and a string in a table."""
    refused = next((mark for mark in ("|", "...") if mark in name), None)
    if refused is not None:
        problem = f"the name contains {refused!r}"
    elif any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in name):
        problem = "the name contains a control character or is not UTF-8"
    elif len(name) > _LONGEST_NAME:
        problem = f"the name has {len(name)} characters, more than {_LONGEST_NAME}"
    else:
        return name
    raise InputError(f"{path}: {name!r}", problem, "Rename the file: its path in the folder is its partition key.")
