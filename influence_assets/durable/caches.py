"""Caches: small JSON files that are ignored unless they are as they were written.

The first line is the SHA-256 of the rest, which reveals a torn or changed file.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from influence_assets.durable.files import write_atomically


def replace_cache(path: Path, content: Any) -> None:
    """Write a cache, and create its folder if it is missing.

    Args:
        path: the cache's file.
        content: anything that can be written as JSON.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, sealed(content))


def read_cache(path: Path) -> Any:
    """Return a cache's content; None if the file is missing, or not as it was written."""
    try:
        return unsealed(path.read_bytes())
    except OSError:
        return None


def sealed(content: Any) -> bytes:
    """Return the bytes of a cache's file for a content, which is anything that can be written as JSON."""
    text = json.dumps(content, separators=(",", ":")).encode()
    return f"{hashlib.sha256(text).hexdigest()}\n".encode() + text


def unsealed(sealed_content: bytes) -> Any:
    """Return the content from the bytes of a cache's file; None if they are not as they were written."""
    checksum, _, text = sealed_content.partition(b"\n")
    if checksum != hashlib.sha256(text).hexdigest().encode():
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
