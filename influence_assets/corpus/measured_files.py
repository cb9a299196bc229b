"""A memory of measurements of files, so that unchanged files are not read again.

A measurement is reused only if the file provably was not written since: a local one by its identity (see
`durable.identity`), one behind a URL by the checksum that its file system keeps. A file that changed so
recently that another write could leave the same time is read again every time.
"""

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from influence_assets.corpus.sources import SourceFile
from influence_assets.corpus.streams import checksum_at, open_raw, sha256_of
from influence_assets.durable.caches import read_cache, replace_cache
from influence_assets.durable.identity import identity, identity_at, is_settled
from influence_assets.errors import InputError

UNREADABLE = "unreadable"
"""Used in place of the hash of a file that cannot be read now; reading it raises the reason."""

_Entry = tuple[list[Any], str, Any]
"""An identity (see `durable.identity`) or a checksum, the measure's id and what it gave."""


class Digests:
    """Measurements of files by their identity or checksum, remembered in one small file.

    The file is a cache: if it is missing, damaged or not writable, the corpus is read again.

    Args:
        path: the cache's file; its folder is created on saving.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)
        self._seen: set[str] = set()
        self._is_changed = False

    def measured(self, url: str, measure_id: str, measure: Callable[[io.BufferedReader], Any]) -> Any:
        """Return the result of `measure` for a file, from memory if the file is unchanged.

        Args:
            url: the file. One that is not local is measured every time, unless its file system has a checksum of it.
            measure_id: identifies the measure and all settings that it depends on.
            measure: takes the open file and returns something that can be written as JSON. Errors are not remembered.

        Raises:
            InputError: the file cannot be read.
        """
        self._seen.add(url)
        if "://" in url:
            return self._measured_elsewhere(url, measure_id, measure)
        remembered = self._entries.get(url)
        if remembered is not None and remembered[:2] == (identity_at(url), measure_id) and is_settled(remembered[0]):
            return remembered[2]
        return self._measure_now(url, measure_id, measure)

    def _measured_elsewhere(self, url: str, measure_id: str, measure: Callable[[io.BufferedReader], Any]) -> Any:
        checksum = checksum_at(url)
        remembered = self._entries.get(url)
        if checksum is not None and remembered is not None and remembered[:2] == (checksum, measure_id):
            return remembered[2]
        with open_raw(url) as stream:
            measured = measure(stream)
        self._is_changed |= self._entries.pop(url, None) is not None
        if checksum is not None and checksum_at(url) == checksum:  # it was not replaced meanwhile
            self._entries[url] = (checksum, measure_id, measured)
            self._is_changed = True
        return measured

    def save(self) -> None:
        """Save the results, without those of files that no longer exist; do nothing if the cache is not writable."""
        unseen = self._entries.keys() - self._seen
        deleted = [url for url in unseen if "://" in url or not os.path.lexists(url)]
        for url in deleted:
            del self._entries[url]
        if deleted or self._is_changed:
            with suppress(OSError):
                replace_cache(self._path, self._entries)
            self._is_changed = False

    def _measure_now(self, url: str, measure_id: str, measure: Callable[[io.BufferedReader], Any]) -> Any:
        self._is_changed |= self._entries.pop(url, None) is not None
        with open_raw(url) as stream:
            before = identity(os.fstat(stream.fileno()))
            # Checked before measuring: a change just before a long measurement would look old after it.
            was_settled = is_settled(before)
            measured = measure(stream)
            if was_settled and identity(os.fstat(stream.fileno())) == before:
                self._entries[url] = (before, measure_id, measured)
                self._is_changed = True
        return measured


def file_hash(file: SourceFile, digests: Digests) -> str:
    """Return the sha256 of a file's stored bytes as 64 hex digits, or `UNREADABLE` if it cannot be read."""
    try:
        return str(digests.measured(file.url, "sha256", sha256_of))
    except InputError:
        return UNREADABLE


def _read(path: Path) -> dict[str, _Entry]:
    try:
        entries = read_cache(path) or {}
        return {url: (file_identity, measure_id, value) for url, (file_identity, measure_id, value) in entries.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
