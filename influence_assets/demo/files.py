"""Files of the demo, written only where they are not there already."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a .jsonl file of the rows; see `write_text`."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text with its folders; a file that holds just this is not touched, nor are its times."""
    content = text.encode("utf-8")
    if not (path.is_file() and path.read_bytes() == content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path
