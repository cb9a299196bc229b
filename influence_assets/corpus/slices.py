"""Shards, which are slices of source files, cut so that appending rows changes only a file's last slice.

A row belongs to slice `offset of its first byte // corpus.shard_bytes`, where offsets count the bytes of the file's
rows laid end to end (see `stored_rows`). Appended rows change the last slice and add later ones; the slices before keep
their content and their hash. This hash is the `content_hash` that decides whether a shard has changed: raise `_RULE` to
have every file hashed anew.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from influence_assets.corpus.listing import is_folder_at
from influence_assets.corpus.measured_files import UNREADABLE, Digests
from influence_assets.corpus.source_format import SourceFormat, corpus_suffixes, format_of
from influence_assets.corpus.sources import SourceFile, list_source_files, nothing_listed
from influence_assets.corpus.stored_rows import Place, StoredRow
from influence_assets.corpus.streams import open_raw, sha256_of
from influence_assets.errors import InputError
from influence_assets.study import Corpus

# Identifies remembered slices: raise it when the rule or the bytes of a row change.
_RULE = 1
_DAMAGED = "damaged-"
_SLICE_NUMBER = re.compile(r"@\d{5,}$")


class _Slice(NamedTuple):
    """A run of a file's rows; `number` is the `index` of `Shard`, the others are its attributes."""

    number: int
    start: int
    stop: int | None
    first_row: int
    content_hash: str
    bytes: int


@dataclass(frozen=True)
class Shard:
    """A slice of a source file: the unit that is computed and replaced.

    Attributes:
        shard_id: the file's name; slices after the first add `@` and the index, as in `a.jsonl@00001`.
        file: the source file.
        index: the slice's number in the file, from 0. A slice in which no row begins, because a long row spans it, is
            left out.
        start: where its rows begin in the file's row bytes.
        stop: where they end; None for a slice that is the whole file.
        first_row: number of its first row in the file, from 1.
        content_hash: the SHA-256 of its row bytes as 64 hex digits, or that of the stored file if the format does not
            store rows and the file is one slice. A file that is damaged or cannot be read has another mark here.
        bytes: size of what was hashed.
    """

    shard_id: str
    file: SourceFile
    index: int
    start: int
    stop: int | None
    first_row: int
    content_hash: str
    bytes: int

    @property
    def is_readable(self) -> bool:
        """Whether the file could be read to its end when it was sliced."""
        return self.content_hash != UNREADABLE and not self.content_hash.startswith(_DAMAGED)


def list_shards(corpus: Corpus, digests: Digests) -> list[Shard]:
    """Return the corpus's shards, sorted by shard_id.

    A file that is damaged or cannot be read is one shard, whose hash is not a SHA-256; reading it raises an error that
    says what is wrong. The list of withdrawn documents is not part of the corpus.

    Args:
        corpus: the study's corpus.
        digests: remembered measurements of files; the caller saves them.

    Raises:
        InputError: the folder is missing or contains no readable file, something in it cannot be read, or a name cannot
            be a partition key.
    """
    files = [file for file in list_source_files(corpus.path) if not _is_same_file(file.url, corpus.withdrawn)]
    if not files:
        raise nothing_listed(corpus.path, corpus_suffixes())
    shards = [shard for file in files for shard in _shards_of(file, corpus, digests)]
    return sorted(shards, key=lambda shard: shard.shard_id)


def _is_same_file(url: str, path: str | None) -> bool:
    """Return whether a source file is a file, also through links."""
    if path is None or "://" in url:
        return False
    try:
        return url == path or os.path.samefile(url, path)  # noqa: PTH121  # URLs are strings
    except OSError:
        return False


def has_vanished(
    shard_id: str,
    listed: Mapping[str, Shard],
    corpus: Corpus,
    is_folder: Callable[[str], bool | None] = is_folder_at,
) -> bool:
    """Return whether a shard is known to be gone from the corpus.

    If its file exists but cannot be read, it is not: nobody can say which slices the file has.

    Args:
        shard_id: a shard that existed once.
        listed: all shards that exist now, by their ids.
        corpus: the study's corpus.
        is_folder: `is_folder_at`, or a cache of it.

    Raises:
        InputError: the file exists, but the source format that read it does not; or something that is not read is in
            the place of a folder on the way to it.
    """
    if shard_id in listed:
        return False
    name = _SLICE_NUMBER.sub("", shard_id)
    if name in listed:
        return listed[name].is_readable
    for end in (place for place, character in enumerate(name) if character == "/"):
        folder = name[:end]
        if is_folder(f"{corpus.path}/{folder}") is False and not folder.endswith(corpus_suffixes()):
            problem = f"is not a folder, though {name} was in it"
            remedy = "Put the folder there; if its files are gone for good, delete or rename what is there instead."
            raise InputError(f"{corpus.path}/{folder}", problem, remedy)
    if not name.endswith(corpus_suffixes()) and is_folder_at(f"{corpus.path}/{name}") is not None:
        format_of(name)
    return True


def read_slice(shard: Shard, corpus: Corpus) -> Iterator[StoredRow]:
    """Yield the rows of a shard, and check their hash at the end.

    Raises:
        InputError: the file is cut short or damaged or, which shows only at the end, has changed since the shard was
            listed; the error names the file and row.
    """
    url = shard.file.url
    digest = hashlib.sha256()
    offset = shard.start
    first = Place(shard.start, shard.first_row)
    source_format = format_of(shard.file.name)
    with open_raw(url) as raw, closing(source_format.rows(raw, url, corpus, first)) as rows:
        for row in rows:
            digest.update(row.content)
            offset += len(row.content)
            yield row
            if shard.stop is not None and offset >= shard.stop:
                break
        content_hash = sha256_of(raw) if _is_hashed_as_stored(shard, source_format) else digest.hexdigest()
    if content_hash != shard.content_hash:
        raise InputError(url, "changed while it was read", "Wait until it is complete, then run again.")


def _is_hashed_as_stored(shard: Shard, source_format: SourceFormat) -> bool:
    return source_format.uncompressed_bytes is not None and shard.stop is None


def _shards_of(file: SourceFile, corpus: Corpus, digests: Digests) -> list[Shard]:
    source_format = format_of(file.name)
    by_format = f"{source_format.name} {source_format.version}"
    measure_id = f"slices {_RULE} {by_format} {corpus.shard_bytes} {corpus.max_document_bytes}"
    try:
        slices = digests.measured(file.url, measure_id, lambda raw: _cut(raw, file.url, corpus, source_format))
    except InputError:
        slices = [_Slice(0, 0, None, 1, UNREADABLE, file.bytes)]
    return [Shard(_shard_id(file.name, index), file, index, *rest) for index, *rest in slices]


def _shard_id(name: str, index: int) -> str:
    return f"{name}@{index:05}" if index else name


def _cut(raw: io.BufferedReader, url: str, corpus: Corpus, source_format: SourceFormat) -> list[_Slice]:
    """Cut an open file into slices; a damaged file is one slice."""
    size_of = source_format.uncompressed_bytes
    try:
        if size_of is not None and size_of(raw, url) <= corpus.shard_bytes:
            return [_as_stored(raw)]
        raw.seek(0)
        # In formats that do not store rows, only a slice without a stop is hashed as stored, so give all others a stop.
        return _slices(source_format.rows(raw, url, corpus, Place()), corpus.shard_bytes, has_stops=size_of is not None)
    except InputError:
        # Errors of the disk or the network are OSErrors; they may be temporary and must not be remembered.
        return [_as_stored(raw, _DAMAGED)]


def _as_stored(raw: io.BufferedReader, mark: str = "") -> _Slice:
    """Return the whole file as one slice, hashed as it is stored."""
    content_hash = mark + sha256_of(raw)
    return _Slice(0, 0, None, 1, content_hash, raw.tell())


class _Growing:
    """A slice to which rows are still being added."""

    def __init__(self, index: int, start: int, first_row: int) -> None:
        self.index = index
        self.start = start
        self.first_row = first_row
        self.bytes = 0
        self.has_rows = False
        self._digest = hashlib.sha256()

    def add(self, row: StoredRow) -> None:
        self._digest.update(row.content)
        self.bytes += len(row.content)
        self.has_rows = self.has_rows or bool(row.payload.strip())

    def finished(self, *, has_stop: bool) -> _Slice:
        stop = self.start + self.bytes if has_stop else None
        return _Slice(self.index, self.start, stop, self.first_row, self._digest.hexdigest(), self.bytes)


def _slices(rows: Iterator[StoredRow], shard_bytes: int, *, has_stops: bool) -> list[_Slice]:
    """Group a file's rows into slices; slices of only empty lines are left out, unless there are no others.

    Args:
        rows: all rows of the file.
        shard_bytes: `corpus.shard_bytes`.
        has_stops: whether a slice has a stop even if it is the whole file.
    """
    growing: list[_Growing] = []
    offset = 0
    for row in rows:
        index = offset // shard_bytes
        if not growing or growing[-1].index != index:
            growing.append(_Growing(index, offset, row.number))
        growing[-1].add(row)
        offset += len(row.content)
    with_rows = [one for one in growing if one.has_rows] or growing[:1] or [_Growing(0, 0, 1)]
    return [one.finished(has_stop=has_stops or len(growing) > 1) for one in with_rows]
