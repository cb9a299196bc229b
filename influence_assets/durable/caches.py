"""Caches: small JSON files that count only where they are as they were written.

The first line is the SHA-256 of the rest, by which a torn or changed file is known.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from influence_assets.durable.files import write_atomically


def replace_cache(path: Path, content: Any) -> None:
    """Write a cache, and its folder where it is missing.

    Args:
        path: of the file.
        content: anything that is JSON.

    Raises:
        OSError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, sealed(content))


def read_cache(path: Path) -> Any:
    """Return what was written to a cache; None where it is missing, or not as it was written."""
    try:
        return unsealed(path.read_bytes())
    except OSError:
        return None


def sealed(content: Any) -> bytes:
    """Return what a cache's file holds for a content, which is anything that is JSON."""
    text = json.dumps(content, separators=(",", ":")).encode()
    return f"{hashlib.sha256(text).hexdigest()}\n".encode() + text


def unsealed(sealed_content: bytes) -> Any:
    """Return the content of a cache's file; None where it is not as it was written."""
    checksum, _, text = sealed_content.partition(b"\n")
    if checksum != hashlib.sha256(text).hexdigest().encode():
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None
