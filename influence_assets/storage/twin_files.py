"""Lists of lines that must not be lost: each begins with a checksum of its content, and is kept in two files.

One copy mends the other. Where neither is as it was written, what can still be read of both is all that is known.
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
"""The folder, beside the lists, of their second copies."""

Condition = Literal["whole", "plain", "damaged", "missing"]


@dataclass(frozen=True)
class Copy:
    """One of the two files.

    Attributes:
        path: where it is.
        condition: `whole` as it was written; `plain` where it has no checksum, as lists had none before they were kept
            twice; `damaged` where it is not as it was written, or cannot be read; or `missing`.
        lines: without the checksum; of a damaged file what is left of it.
    """

    path: Path
    condition: Condition
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Twins:
    """Both files, as they were found.

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
        """Whether there is neither, as before the list was first written."""
        return self.first.condition == self.second.condition == "missing"

    @property
    def lines(self) -> tuple[str, ...]:
        """Every line that either copy holds, once; of damaged ones only where there is no other."""
        whole = [copy for copy in (self.first, self.second) if copy.condition in ("whole", "plain")]
        return tuple(dict.fromkeys(line for copy in whole or [self.first, self.second] for line in copy.lines))

    @property
    def troubles(self) -> dict[Path, str]:
        """What is wrong with either file, as a clause; nothing is wrong with lists that were never written."""
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
        backend: where the store is.
        name: of the first of them, at the top of the store; its copy is in `.copies`.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend = backend
        self._names = (name, f"{COPIES}/{name}")
        self.path, self.copy = (backend.local_root / each for each in self._names)

    def read(self) -> Twins:
        """Return both files.

        Raises:
            StorageError: one cannot be read, and the other is not whole: what is in it may be all that is known.
        """
        copies: list[Copy] = []
        refused: tuple[Path, OSError] | None = None
        for name, path in zip(self._names, (self.path, self.copy), strict=True):
            try:
                copies.append(_opened(self._backend, name))
            except OSError as error:
                refused = refused or (path, error)
                copies.append(Copy(path, "damaged"))
        if refused is not None and not any(copy.condition == "whole" for copy in copies):
            path, reason = refused
            remedy = "Mend its permissions or its disk, and run again."
            raise StorageError(f"{path}: cannot be read ({reason.strerror or reason}). {remedy}") from reason
        return Twins(*copies)

    def write(self, lines: Sequence[str]) -> None:
        """Write both files, each in one step.

        Raises:
            StorageError: one cannot be written.
        """
        content = "".join(f"{line}\n" for line in lines)
        text = json.dumps({"sha256": _checksum(content.encode())}) + "\n" + content
        with writing(self.path.name, self.path.parent):
            for name in self._names:
                self._backend.write(name, text.encode())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other processes from changing the list."""
        with named_lock(self._backend, f".{self._names[0]}.lock"):
            yield


def _opened(backend: Backend, name: str) -> Copy:
    path = backend.local_root / name
    try:
        content = backend.read(name)
    except FileNotFoundError:
        return Copy(path, "missing")
    head, _, rest = content.partition(b"\n")
    checksum = _checksum_in(head)
    if checksum is None:
        # A list of old is JSON without a checksum; where it was cut off in the middle nobody can tell.
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
