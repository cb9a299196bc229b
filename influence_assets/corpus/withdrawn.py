"""The list of withdrawn documents: ids of texts that must not be used, each with a reason and a date.

It never holds a text. Once a document is on the list it is left out wherever its text turns up
again, in whichever file.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from influence_assets.corpus.readers import json_rows
from influence_assets.corpus.sources import JSONL_SUFFIXES
from influence_assets.corpus.streams import bounded_lines, open_raw
from influence_assets.errors import InputError

_LONGEST_ROW_BYTES = 2**20
_ROW_REMEDY = 'Write rows such as {"document_id": "<32 hex digits>", "reason": "…"}.'
_ID_REMEDY = "Take the document_id of the table `documents`: 32 lowercase hex digits."
_DATE_REMEDY = "Write it as in 2025-01-31 or 2025-01-31T12:00:00Z."


@dataclass(frozen=True)
class Withdrawal:
    """A document that must not be used.

    Attributes:
        document_id: the hash of its text, 32 lowercase hex digits.
        reason: why; empty where none is given.
        withdrawn_at: when, in ISO 8601 and UTC; empty where it is not given.
    """

    document_id: str
    reason: str
    withdrawn_at: str


def read_withdrawn(path: Path) -> list[Withdrawal]:
    """The withdrawals of a list file, each document once: the first row that names it counts.

    A .jsonl file has rows with `document_id`, and `reason` and `withdrawn_at` where they are known.
    Any other is text with one id a line; what follows a `#` is a comment. A file that is not there
    is a list without rows.

    Raises:
        InputError: naming the file and row.
    """
    if not _is_there(path):
        return []
    listed = _rows(path) if path.name.endswith(JSONL_SUFFIXES) else _lines(path)
    withdrawals: dict[str, Withdrawal] = {}
    for withdrawal in listed:
        withdrawals.setdefault(withdrawal.document_id, withdrawal)
    return list(withdrawals.values())


def add_withdrawn(path: Path, withdrawals: Sequence[Withdrawal]) -> list[Withdrawal]:
    """Append to a .jsonl list what it does not name yet; what it holds stays byte for byte.

    The new list takes the old one's place in one step and is safely on the disk on return.
    Several processes may add at once.

    Returns:
        The withdrawals that were added.

    Raises:
        InputError: the list is no .jsonl file, holds a row that is no withdrawal, or cannot be
            written; or one of `withdrawals` has no document_id.
    """
    if path.suffix != ".jsonl":
        raise InputError(str(path), "is not a .jsonl list", "Add the ids to it by hand, or name a .jsonl file.")
    checked = [_withdrawal(asdict(withdrawal), "the withdrawal") for withdrawal in withdrawals]
    path = path.resolve()  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            named = {withdrawal.document_id for withdrawal in read_withdrawn(path)}
            added = {one.document_id: one for one in reversed(checked) if one.document_id not in named}
            new = [one for one in checked if added.get(one.document_id) is one]
            if new:
                _append(path, new)
            return new
    except OSError as error:
        raise InputError(str(path), f"cannot be written ({error})", "Mend that, then withdraw again.") from error


def _rows(path: Path) -> Iterator[Withdrawal]:
    for number, row in json_rows(str(path), _LONGEST_ROW_BYTES, _ROW_REMEDY):
        yield _withdrawal(row, f"{path}, row {number}")


def _lines(path: Path) -> Iterator[Withdrawal]:
    with open_raw(str(path)) as stream:
        for number, line in bounded_lines(stream, _LONGEST_ROW_BYTES, str(path), _ID_REMEDY):
            # An id is ASCII; what is not in UTF-8 is none, and is refused as such.
            identity = line.decode("utf-8-sig", errors="replace").partition("#")[0].strip()
            if identity:
                yield _withdrawal({"document_id": identity}, f"{path}, row {number}")


def _withdrawal(row: dict[str, Any], where: str) -> Withdrawal:
    if "document_id" not in row:
        raise InputError(where, "has no `document_id`", _ROW_REMEDY)
    identity, reason = row["document_id"], row.get("reason") or ""
    if not isinstance(identity, str) or len(identity) != 32 or not set(identity) <= set("0123456789abcdef"):
        raise InputError(where, f"{str(identity)[:80]!r} is not a document_id", _ID_REMEDY)
    if not isinstance(reason, str) or not _is_text(reason):
        raise InputError(where, "`reason` is not a text", _ROW_REMEDY)
    return Withdrawal(identity, reason, _in_utc(row.get("withdrawn_at") or "", where))


def _is_text(reason: str) -> bool:
    """Whether it has no half of a surrogate pair, which a list with it could not be read for."""
    try:
        reason.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _in_utc(moment: Any, where: str) -> str:
    """A moment as ISO 8601 in UTC; one without a zone is taken for UTC."""
    if moment == "":
        return ""
    try:
        parsed = datetime.fromisoformat(moment)
        at = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(where, f"`withdrawn_at` is {moment!r}, not a date", _DATE_REMEDY) from error
    return at.isoformat()


def _is_there(path: Path) -> bool:
    """Whether there is a list; one that cannot be looked at must not pass for one without rows."""
    try:
        path.stat()
    except FileNotFoundError as error:
        if not path.is_symlink():
            return False
        raise InputError(str(path), "is a link to a file that is not there", "Mend the link.") from error
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error})", "Check that it may be read.") from error
    return True


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from adding; the lock ends with its holder, however that ends."""
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _append(path: Path, withdrawals: Sequence[Withdrawal]) -> None:
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    rows = "".join(json.dumps(asdict(withdrawal), ensure_ascii=False) + "\n" for withdrawal in withdrawals)
    partial = path.with_name(f".{path.name}.partial")  # hidden: it may lie in the corpus's folder
    try:
        with partial.open("wb") as stream:
            stream.write(before + rows.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
