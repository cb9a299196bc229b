"""Small files beside the artifacts: lists, and caches that count only where they are as they were written."""

import hashlib
import json
from pathlib import Path
from typing import Any

from influence_assets.storage import files
from influence_assets.storage.places import draft_beside


def replace_file(path: Path, text: str) -> None:
    """Write a small file in the place of the one that there is, so that a reader finds either whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, text.encode(), through=draft_beside(path))


def replace_cache(path: Path, content: Any) -> None:
    """Write a cache: a line with the hash of the rest, and the rest as JSON."""
    text = json.dumps(content)
    replace_file(path, f"{_checksum(text)}\n{text}")


def read_cache(path: Path) -> Any:
    """What was written to a cache; None where it is missing, or not as it was written."""
    try:
        checksum, _, text = path.read_text(encoding="utf-8").partition("\n")
        return json.loads(text) if checksum == _checksum(text) else None
    except (OSError, ValueError):
        return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
