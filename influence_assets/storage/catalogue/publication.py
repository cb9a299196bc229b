"""What is known of the published file: whether it still is the one that the loader published.

Other programs can change the file. One that they changed is not loaded into but built again, so that their rows are not
taken for the study's.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from influence_assets.durable.caches import read_cache, replace_cache

_RECORD = "catalogue.json"
_HEADERS_BYTES = 3 * 4096
"""The file's header, and the two of the database, of which each checkpoint writes one with a higher number."""


def is_as_published(path: Path) -> bool:
    """Return whether the loader published this very file, and nothing has written to it since."""
    identity = published_identity(path)
    return identity is not None and (read_cache(_record(path)) or {}).get("file") == identity


def was_built_anew(path: Path) -> bool:
    """Return whether the file is as published and was built from nothing, so that building it again changes nothing."""
    return is_as_published(path) and bool((read_cache(_record(path)) or {}).get("is_built_anew"))


def note_publication(path: Path, *, is_built_anew: bool) -> None:
    """Record that the file, which was just published, is as it should be.

    Args:
        path: the DuckDB file.
        is_built_anew: whether it was built from nothing.
    """
    # Without the record, the file is built again, which costs time and no results.
    with suppress(OSError):
        replace_cache(_record(path), {"file": published_identity(path), "is_built_anew": is_built_anew})


def doubt_publication(path: Path) -> None:
    """Record that the file is not as it should be, so that the next load builds it again.

    Raises:
        OSError: the record cannot be removed.
    """
    _record(path).unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.parent / ".cache" / _RECORD


def published_identity(path: Path) -> str | None:
    """Return a hash of DuckDB's headers, which every write of DuckDB changes and a copy of the store keeps.

    None if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_HEADERS_BYTES)).hexdigest()
    except OSError:
        return None
