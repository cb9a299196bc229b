"""Refuses a study whose store is inside, or contains, a file or folder that it reads."""

import os
from collections.abc import Mapping
from pathlib import Path

from influence_assets.errors import InputError

_LOCAL_SCHEMES = ("file", "local")
_INSIDE = "lies inside"


def refuse_overlaps(root: str, sources: Mapping[str, str | None], parts: Mapping[str, str | None]) -> None:
    """Raise if the store's folder is the same as, inside, or around one that the study reads.

    It may be inside one of `parts`, of which only certain files and subfolders are read.

    Symbolic links are followed. Paths outside the local file system never overlap.

    Args:
        root: the value of `storage.root`.
        sources: the paths by key, such as `corpus.path`, that are read completely; None if a key is not set.
        parts: the other paths of the study by key.

    Raises:
        InputError: the store overlaps with a source; the error names both keys.
    """
    store = local_path(root)
    for key, value in {**sources, **parts}.items():
        source = None if value is None else local_path(value)
        relation = _relation(store, source) if store is not None and source is not None else ""
        if relation and not (key in parts and relation == _INSIDE):
            raise InputError(
                f"storage.root and {key}",
                f"the store {store} {relation} {source}",
                f"Give storage.root a folder of its own, such as `root: store` beside that of {key}.",
            )


def local_path(url: str) -> Path | None:
    """Return the path of a local file or folder, also for a file:// URL; None for any other URL."""
    if "://" in url:
        scheme, _, url = url.rpartition("::")[2].partition("://")
        if scheme not in _LOCAL_SCHEMES:
            return None
    return Path(os.path.realpath(Path(url).expanduser()))


def _relation(store: Path, source: Path) -> str:
    """Return how a store overlaps with a source, as a verb; empty if it does not."""
    inside, around = _is_in(store, source), _is_in(source, store)
    if inside and around:
        return "is the same as"
    return _INSIDE if inside else "holds" if around else ""


def _is_in(inner: Path, outer: Path) -> bool:
    """Return whether a path is the same as another or below it, also through links, mounts or differences in case."""
    if inner == outer or outer in inner.parents:
        return True
    return any(_is_same(above, outer) for above in (inner, *inner.parents))


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
