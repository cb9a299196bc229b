"""Lists of lines that must not be lost: each is kept in two files, which begin with a checksum of their content.

One copy repairs the other. If neither is as it was written, every line that can still be read in either is used.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.locks import named_lock
from influence_assets.storage.backend import Backend
from influence_assets.storage.disk_errors import writing

COPIES = ".copies"
"""The folder, beside the lists, for their second copies."""

Condition = Literal["whole", "plain", "damaged", "missing"]


@dataclass(frozen=True)
class Copy:
    """One of the two files.

    Attributes:
        path: the file.
        condition: `whole` if it is as it was written; `plain` if it has no checksum, as in lists from before they were
            kept twice; `damaged` if it is not as it was written, or cannot be read; or `missing`.
        lines: its lines without the checksum; of a damaged file, those that can be read.
    """

    path: Path
    condition: Condition
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Twins:
    """The state of both files.

    Attributes:
        first: the file that people look at.
        second: its copy.
    """

    first: Copy
    second: Copy

    @property
    def is_whole(self) -> bool:
        """Whether both are as they were written."""
        return self.first.condition == self.second.condition == "whole"

    @property
    def is_missing(self) -> bool:
        """Whether both are missing, as before the list was first written."""
        return self.first.condition == self.second.condition == "missing"

    @property
    def is_doubtful(self) -> bool:
        """Whether the list was written, but no copy is as it was written, so that lines may be lost."""
        conditions = {self.first.condition, self.second.condition}
        return "damaged" in conditions and not conditions & {"whole", "plain"}

    @property
    def lines(self) -> tuple[str, ...]:
        """Every distinct line of either copy; lines of damaged copies only if both are damaged or missing."""
        whole = [copy for copy in (self.first, self.second) if copy.condition in ("whole", "plain")]
        return tuple(dict.fromkeys(line for copy in whole or [self.first, self.second] for line in copy.lines))

    @property
    def troubles(self) -> dict[Path, str]:
        """What is wrong with each file, as a clause; nothing is wrong with lists that were never written."""
        if self.is_missing or (self.first.condition, self.second.condition) == ("plain", "missing"):
            return {}
        troubles = {
            copy.path: f"is {'not as it was written' if copy.condition != 'missing' else 'missing'}"
            for copy in (self.first, self.second)
            if copy.condition != "whole"
        }
        if not troubles and self.first.lines != self.second.lines:
            troubles[self.second.path] = f"is not the same as {self.first.path.name}"
        return troubles


class TwinFile:
    """A list of lines that is kept in two files.

    Args:
        backend: the store's files.
        name: the name of the first file, at the top of the store; its copy is in `.copies`.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend = backend
        self._names = (name, f"{COPIES}/{name}")
        self.path, self.copy = (backend.local_root / each for each in self._names)

    def read(self) -> Twins:
        """Read both files.

        Raises:
            StorageError: one cannot be read while the other is not whole, so that lines could be lost.
        """
        copies: list[Copy] = []
        first_error: tuple[Path, OSError] | None = None
        for name, path in zip(self._names, (self.path, self.copy), strict=True):
            try:
                copies.append(_read_copy(self._backend, name))
            except OSError as error:
                first_error = first_error or (path, error)
                copies.append(Copy(path, "damaged"))
        if first_error is not None and not any(copy.condition == "whole" for copy in copies):
            path, reason = first_error
            remedy = "Correct its permissions or repair its disk, and run again."
            raise StorageError(f"{path}: cannot be read ({reason.strerror or reason}). {remedy}") from reason
        return Twins(*copies)

    def write(self, lines: Sequence[str], *, is_complete: bool = True) -> None:
        """Write both files, each atomically.

        Args:
            lines: all lines.
            is_complete: False if lines may have been lost, so that the files must go on to count as damaged.

        Raises:
            StorageError: one of them cannot be written.
        """
        content = "".join(f"{line}\n" for line in lines)
        text = json.dumps({"sha256": _checksum(content.encode()) if is_complete else ""}) + "\n" + content
        with writing(self.path.name, self.path.parent):
            for name in self._names:
                self._backend.write(name, text.encode())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other processes from changing the list."""
        with named_lock(self._backend, f".{self._names[0]}.lock"):
            yield


def _read_copy(backend: Backend, name: str) -> Copy:
    path = backend.local_root / name
    try:
        content = backend.read(name)
    except FileNotFoundError:
        return Copy(path, "missing")
    head, _, rest = content.partition(b"\n")
    checksum = _checksum_in(head)
    if checksum is None:
        # Old lists are JSON lines without a checksum; nothing shows whether one was cut off between lines.
        is_plain = bool(content.strip()) and all(map(_is_object, _lines(content)))
        return Copy(path, "plain" if is_plain else "damaged", _lines(content))
    return Copy(path, "whole" if checksum == _checksum(rest) else "damaged", _lines(rest))


def _lines(content: bytes) -> tuple[str, ...]:
    text = content.decode("utf-8-sig", errors="replace")
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _checksum_in(head: bytes) -> str | None:
    try:
        described = json.loads(head)
    except ValueError:
        return None
    is_head = isinstance(described, dict) and described.keys() == {"sha256"}
    return str(described["sha256"]) if is_head else None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
