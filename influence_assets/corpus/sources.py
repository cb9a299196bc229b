"""Source files: what lies in the corpus's folder and in the queries' folder, and under which names.

A query file is one query set, a source file one shard or several (see slices). Its name is its path
relative to the folder, which is also a Dagster partition key; names that cannot be one are refused here.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from influence_assets.errors import InputError

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TEXT_SUFFIXES = tuple(name + packing for name in (".txt", ".md") for packing in ("", ".gz", ".zst"))
PARQUET_SUFFIXES = (".parquet",)
CORPUS_SUFFIXES = JSONL_SUFFIXES + PARQUET_SUFFIXES + TEXT_SUFFIXES

_LONGEST_NAME = 200
# Control characters, halves of surrogate pairs (names that are not UTF-8), line and paragraph separators.
_REFUSED_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus or of the queries.

    Attributes:
        name: its path relative to the folder, posix style; of a query file, the query_set_id.
        url: a local path, or an fsspec URL.
        bytes: its size as it is stored (compressed, if it is).
    """

    name: str
    url: str
    bytes: int


def list_source_files(path: str) -> list[SourceFile]:
    """The corpus's readable files, sorted by name.

    Hidden files and folders, files of other suffixes and links to folders are passed over.

    Raises:
        InputError: the folder is missing or holds no readable file, or a name cannot be that of a partition.
    """
    filesystem, root = _located(path)
    if not filesystem.isdir(root):
        problem = "is a file, not a folder" if filesystem.exists(root) else "no such folder"
        raise InputError(path, problem, "Set corpus.path to the folder that holds the documents.")
    return _listed(filesystem, root, path, CORPUS_SUFFIXES)


def list_query_files(path: str) -> list[SourceFile]:
    """The query files, sorted by query_set_id: one .jsonl file (plain, .gz or .zst), or a folder of them.

    Raises:
        InputError: the path is missing or holds no .jsonl file, or a name cannot be a query_set_id.
    """
    filesystem, root = _located(path)
    if filesystem.isdir(root):
        return _listed(filesystem, root, path, JSONL_SUFFIXES)
    if not filesystem.isfile(root):
        raise InputError(path, "no such file or folder", "Set queries.path to a .jsonl file or a folder of them.")
    if not _has_suffix(root, JSONL_SUFFIXES):
        raise InputError(path, "is not a .jsonl file", "Write one JSON object with prompt and completion a line.")
    name = PurePosixPath(root).name
    return [SourceFile(_legal(name, path), _url(filesystem, root), int(filesystem.info(root)["size"]))]


def _located(path: str) -> tuple[Any, str]:
    """The filesystem of `path`, and the path on it. A local path is never taken for a chain of URLs."""
    if "://" not in path:
        return LocalFileSystem(), Path(path).expanduser().absolute().as_posix()
    try:
        filesystem, root = fsspec.url_to_fs(path)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(path, f"cannot be opened ({error})", "Install that filesystem, or copy the files.") from error
    return filesystem, str(root)


def _listed(filesystem: Any, root: str, path: str, suffixes: tuple[str, ...]) -> list[SourceFile]:
    # Listings may be cached on object stores; a sensor must see what is there now.
    filesystem.invalidate_cache()
    try:
        found = filesystem.find(root, detail=True)
    except OSError as error:
        raise InputError(path, f"cannot be listed ({error})", "Check its permissions.") from error
    files = []
    for place, entry in found.items():
        name = str(place).removeprefix(root.rstrip("/") + "/")
        hidden = any(part.startswith(".") for part in name.split("/"))
        if hidden or not _has_suffix(name, suffixes) or not _is_file(filesystem, place, entry):
            continue
        files.append(SourceFile(_legal(name, path), _url(filesystem, place), int(entry["size"])))
    if not files:
        raise InputError(path, "holds no readable file", f"Put files there that end in {', '.join(suffixes)}.")
    return sorted(files, key=lambda file: file.name)


def _is_file(filesystem: Any, place: str, entry: dict[str, Any]) -> bool:
    """Whether an entry is a file or a link to one; fsspec calls the type of every local link `other`."""
    return entry["type"] == "file" or bool(filesystem.isfile(place))


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.endswith(suffixes)


def _url(filesystem: Any, place: str) -> str:
    return place if isinstance(filesystem, LocalFileSystem) else str(filesystem.unstrip_protocol(place))


def _legal(name: str, path: str) -> str:
    """`name`, if Dagster can take it for a partition key and a table for a string."""
    refused = next((mark for mark in ("|", "...") if mark in name), None)
    if refused is not None:
        problem = f"the name contains {refused!r}"
    elif any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in name):
        problem = "the name contains a control character or is not UTF-8"
    elif len(name) > _LONGEST_NAME:
        problem = f"the name has {len(name)} characters, more than {_LONGEST_NAME}"
    else:
        return name
    raise InputError(f"{path}: {name!r}", problem, "Rename the file: its path in the folder is its partition key.")
