"""Remembers what files held when they were last read, so that unchanged files are not read again.

Content decides, never a time stamp: what is remembered counts only for a file that provably was not written since. The
operating system sets the time of the last change (`st_ctime_ns`) on every write and, unlike the time of modification,
offers no way to set it back. A file that changed so recently that a further write could leave the same time is always
read anew.
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from influence_assets.corpus.sources import SourceFile
from influence_assets.corpus.streams import open_raw, sha256_of
from influence_assets.errors import InputError

UNREADABLE = "unreadable"
"""Stands for the hash of a file that cannot be read now; reading it says why."""

# Two writes within a tick of the file system's clock leave the same times; no known tick is longer.
_CLOCK_GRAIN_NS = 2_000_000_000

_Identity = list[int]
_Entry = tuple[_Identity, str, Any]


class Digests:
    """What local files held, by their identity, remembered in one small file.

    The file is a cache: missing, damaged or not writable, it costs reading the corpus again.

    Args:
        path: where it is remembered; the folder is made when it is saved.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = _read(path)
        self._seen: set[str] = set()
        self._is_changed = False

    def measured(self, url: str, measure_id: str, measure: Callable[[io.BufferedReader], Any]) -> Any:
        """Return the result of `measure` for a file, from memory if the file is unchanged.

        Args:
            url: the file. One that is not local is measured every time.
            measure_id: identifies the measure and all settings that it depends on.
            measure: takes the open file and returns something that JSON can hold. Errors are not remembered.

        Raises:
            InputError: the file cannot be read.
        """
        if "://" in url:
            with open_raw(url) as stream:
                return measure(stream)
        self._seen.add(url)
        remembered = self._entries.get(url)
        if remembered is not None and remembered[:2] == (_identity_at(url), measure_id) and _is_settled(remembered[0]):
            return remembered[2]
        return self._measure_now(url, measure_id, measure)

    def save(self) -> None:
        """Save the results, without those of files that are gone; do nothing where writing is not allowed."""
        gone = [url for url in self._entries.keys() - self._seen if not os.path.lexists(url)]
        for url in gone:
            del self._entries[url]
        if gone or self._is_changed:
            _write(self._path, self._entries)
            self._is_changed = False

    def _measure_now(self, url: str, measure_id: str, measure: Callable[[io.BufferedReader], Any]) -> Any:
        self._is_changed |= self._entries.pop(url, None) is not None
        with open_raw(url) as stream:
            before = _identity(os.fstat(stream.fileno()))
            # Decided before measuring: a long measure must not make a change just before it look old.
            is_settled = _is_settled(before)
            result = measure(stream)
            if is_settled and _identity(os.fstat(stream.fileno())) == before:
                self._entries[url] = (before, measure_id, result)
                self._is_changed = True
        return result


def file_hash(file: SourceFile, digests: Digests) -> str:
    """Return the sha256 of a file's stored bytes as 64 hex digits, or `UNREADABLE` if it cannot be read."""
    try:
        return str(digests.measured(file.url, "sha256", sha256_of))
    except InputError:
        return UNREADABLE


def _identity_at(path: str) -> _Identity | None:
    try:
        return _identity(os.stat(path))  # noqa: PTH116  # thousands of them
    except OSError:
        return None


def _identity(stat: os.stat_result) -> _Identity:
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _is_settled(identity: _Identity) -> bool:
    """Return whether any later write must change the identity: the last one is neither recent nor in the future."""
    return time.time_ns() - identity[-1] >= _CLOCK_GRAIN_NS


def _read(path: Path) -> dict[str, _Entry]:
    """Read the saved entries; none if the file is missing or its first line is not the hash of the rest."""
    try:
        checksum, content = path.read_bytes().split(b"\n", 1)
        if checksum != hashlib.sha256(content).hexdigest().encode():
            return {}
        return {
            url: (identity, measure_id, result) for url, (identity, measure_id, result) in json.loads(content).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, entries: dict[str, _Entry]) -> None:
    """Write the entries. If two processes write at once the file may be torn, which its hash then shows."""
    content = json.dumps(entries, separators=(",", ":")).encode()
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        partial.replace(path)
    except OSError:
        return
