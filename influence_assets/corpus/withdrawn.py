"""Reading of lists of withdrawn documents: ids of texts that must not be used, each with a reason and a date.

A list never contains a text. A listed document is left out wherever its text appears again, in any file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from influence_assets.corpus.formats import jsonl
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
        reason: why it was withdrawn; may be empty.
        withdrawn_at: when it was withdrawn, in ISO 8601 and UTC; may be empty.
    """

    document_id: str
    reason: str
    withdrawn_at: str


def read_withdrawn(path: Path) -> list[Withdrawal]:
    """Return the withdrawals of a list file, each document once: the first row that names it counts.

    A .jsonl file has rows with `document_id` and, if known, `reason` and `withdrawn_at`. Any other file is text with
    one id per line, in which `#` begins a comment.

    Raises:
        InputError: the file does not exist or cannot be read, which must not count as an empty list; or a row cannot be
            read. The error names the file and row.
    """
    listed = _rows(path) if path.name.endswith(jsonl.SUFFIXES) else _lines(path)
    withdrawals: dict[str, Withdrawal] = {}
    for withdrawal in listed:
        withdrawals.setdefault(withdrawal.document_id, withdrawal)
    return list(withdrawals.values())


def _rows(path: Path) -> Iterator[Withdrawal]:
    for number, row in jsonl.json_rows(str(path), _LONGEST_ROW_BYTES, _ROW_REMEDY):
        yield parsed_withdrawal(row, f"{path}, row {number}")


def _lines(path: Path) -> Iterator[Withdrawal]:
    with open_raw(str(path)) as stream:
        for number, line in bounded_lines(stream, _LONGEST_ROW_BYTES, str(path), _ID_REMEDY):
            # Ids are ASCII: what is not UTF-8 cannot be one, and is refused below.
            identity = line.decode("utf-8-sig", errors="replace").partition("#")[0].strip()
            if identity:
                yield parsed_withdrawal({"document_id": identity}, f"{path}, row {number}")


def parsed_withdrawal(row: dict[str, Any], where: str) -> Withdrawal:
    """Return a row of a list as a withdrawal, its date in UTC.

    Args:
        row: `document_id` and, if known, `reason` and `withdrawn_at`.
        where: the row's place, for the error.

    Raises:
        InputError: the document_id is missing, or a value has the wrong form; the error names `where`.
    """
    if "document_id" not in row:
        raise InputError(where, "has no `document_id`", _ROW_REMEDY)
    identity, reason = row["document_id"], row.get("reason") or ""
    if not isinstance(identity, str) or len(identity) != 32 or not set(identity) <= set("0123456789abcdef"):
        raise InputError(where, f"{str(identity)[:80]!r} is not a document_id", _ID_REMEDY)
    if not isinstance(reason, str) or not _is_text(reason):
        raise InputError(where, "`reason` is not a text", _ROW_REMEDY)
    return Withdrawal(identity, reason, _in_utc(row.get("withdrawn_at") or "", where))


def _is_text(reason: str) -> bool:
    """Return whether a reason can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        reason.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _in_utc(moment: Any, where: str) -> str:
    """Return a moment as ISO 8601 in UTC; one without a zone is taken to be in UTC."""
    if moment == "":
        return ""
    try:
        parsed = datetime.fromisoformat(moment)
        at = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(where, f"`withdrawn_at` is {moment!r}, not a date", _DATE_REMEDY) from error
    return at.isoformat()
