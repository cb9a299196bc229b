"""Columns of a row other than its text: some have their own column in SQL, the others become JSON."""

import json
import math
from datetime import date, datetime, time
from typing import Any

# `license` is read as `licence`.
PROMOTED = ("title", "source", "licence", "author", "date", "url")


def promoted(columns: dict[str, Any]) -> dict[str, str | None]:
    """Remove the columns named in `PROMOTED` from `columns` and return them as strings; missing ones are None."""
    if columns.get("licence") is None and "license" in columns:
        columns["licence"] = columns.pop("license")
    return {name: as_string(columns.pop(name, None)) for name in PROMOTED}


def as_string(value: Any) -> str | None:
    """Return a string as it is, a date in ISO form, null as None and anything else as its JSON text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return _json(value)


def metadata(columns: dict[str, Any]) -> str | None:
    """Return the columns as the JSON text of an object, or None if there are none."""
    return _json(columns) if columns else None


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # JSON has no NaN and no infinity
        return json.dumps(_without_nan(value), ensure_ascii=False, allow_nan=False, default=_plain)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Return a value that JSON cannot hold as one that it can: bytes as hex digits, the others as strings."""
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def kind_of_value(value: Any) -> str:
    """Return what kind of value a column holds, in words for an error."""
    for kinds, words in (
        (bool, "true or false"),
        (int | float, "a number"),
        (list | tuple, "a list"),
        (dict, "an object"),
    ):
        if isinstance(value, kinds):
            return words
    return "null" if value is None else f"of type {type(value).__name__}"
