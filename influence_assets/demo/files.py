"""Writes the demo's files, except those whose content is already right."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a .jsonl file of the rows; see `write_text`."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text and the folders above it; a file that already holds this text is not touched."""
    content = text.encode("utf-8")
    if not (path.is_file() and path.read_bytes() == content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path
