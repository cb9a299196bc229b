"""Listings of the files below a folder, local or behind an fsspec URL, that never silently leave anything out.

A file that is missing from a later listing counts as deleted. So a folder that cannot be read, a broken link and an
entry that cannot be examined are errors, never gaps.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from influence_assets.errors import InputError

_REMEDY = "Mount it, correct its permissions, or move it out of the folder, then run again."
_LINK_REMEDY = "Correct the link, or remove it."


class ListedFile(NamedTuple):
    """A file in a listing.

    Attributes:
        name: its path relative to the listed folder, with forward slashes.
        url: a local path, or an fsspec URL.
        bytes: its size as it is stored.
    """

    name: str
    url: str
    bytes: int


class MissingError(InputError):
    """Error for a path that should be listed but at which there is nothing."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "there is nothing at this path", "Name a folder or a file that exists, or mount it.")

    def __reduce__(self) -> tuple[type["MissingError"], tuple[str]]:  # type: ignore[override]
        """Keep the path when the error crosses a process boundary."""
        return (type(self), (self.where,))


def files_below(path: str, suffixes: tuple[str, ...]) -> list[ListedFile] | None:
    """Return the files below a folder whose names end in one of `suffixes`, sorted by name.

    Hidden files and folders, and links to folders, are skipped.

    Args:
        path: a local folder or an fsspec URL; a local path is never taken for a chain of URLs.
        suffixes: endings of the names.

    Returns:
        None if `path` is a file.

    Raises:
        MissingError: there is nothing at `path`.
        InputError: something at or below it cannot be read; the error names it.
    """
    filesystem, root = _located(path)
    if filesystem is not None:
        return _remote_files(filesystem, root, path, suffixes)
    if not stat.S_ISDIR(_local_state(root, path).st_mode):
        return None
    return sorted(_local_files(root, "", suffixes), key=lambda file: file.name)


def file_at(path: str) -> ListedFile:
    """Return the file at a path; its name is the last part of the path.

    Raises:
        MissingError: there is nothing at `path`.
        InputError: the file cannot be examined.
    """
    filesystem, root = _located(path)
    name = root.rpartition("/")[2]
    if filesystem is None:
        return ListedFile(name, root, _local_state(root, path).st_size)
    entry = _remote_entry(filesystem, root, path)
    return ListedFile(name, str(filesystem.unstrip_protocol(root)), int(entry["size"]))


def exists_at(path: str) -> bool:
    """Return whether there is anything at a path.

    Raises:
        InputError: the path cannot be examined.
    """
    try:
        file_at(path)
    except MissingError:
        return False
    return True


def _local_files(root: str, below: str, suffixes: tuple[str, ...]) -> Iterator[ListedFile]:
    """Yield the files below a folder of `root`; `below` is the folder's path in `root`, ending in a slash, or empty."""
    folder = f"{root}/{below}"
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(folder, f"the folder cannot be listed ({error.strerror or error})", _REMEDY) from error
    for entry in visible:
        name = below + entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _local_files(root, f"{name}/", suffixes)
            elif (size := _size_of_file(entry, suffixes)) is not None:
                yield ListedFile(name, f"{root}/{name}", size)
        except OSError as error:
            raise InputError(f"{root}/{name}", f"cannot be read ({error.strerror or error})", _REMEDY) from error


def _size_of_file(entry: os.DirEntry[str], suffixes: tuple[str, ...]) -> int | None:
    """Return the size of an entry that is a file with one of the suffixes, or a link to one; None for other entries.

    Raises:
        InputError: the entry is a broken link, which may mean either a deleted file or one that cannot be reached.
        OSError: the entry cannot be examined.
    """
    is_wanted = entry.name.endswith(suffixes)
    if not is_wanted and not entry.is_symlink():
        return None
    try:
        state = entry.stat()
    except FileNotFoundError as error:
        if entry.is_symlink():
            raise InputError(entry.path, "is a link to something that is not there", _LINK_REMEDY) from error
        return None  # removed a moment ago
    return state.st_size if is_wanted and stat.S_ISREG(state.st_mode) else None


def _local_state(root: str, path: str) -> os.stat_result:
    try:
        return os.stat(root)  # noqa: PTH116  # this module uses os throughout
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(path) from error
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})", _REMEDY) from error


def _located(path: str) -> tuple[Any, str]:
    """Return the file system of a path, or None if it is the local one, and the path on it."""
    if "://" not in path:
        return None, Path(path).expanduser().absolute().as_posix()
    try:
        filesystem, root = fsspec.url_to_fs(path)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(path, f"cannot be opened ({error})", "Install that filesystem, or copy the files.") from error
    if isinstance(filesystem, LocalFileSystem):
        return None, str(root)
    filesystem.invalidate_cache()  # listings may be cached on object stores; a sensor must see what is there now
    return filesystem, str(root).rstrip("/")


def _remote_files(filesystem: Any, root: str, path: str, suffixes: tuple[str, ...]) -> list[ListedFile] | None:
    """List the files below a folder, one subfolder at a time; fsspec's `find` skips those that it cannot list."""
    if _remote_entry(filesystem, root, path)["type"] == "file":
        return None
    files: list[ListedFile] = []
    folders = [root]
    while folders:
        folder = folders.pop()
        for entry in _remote_folder(filesystem, folder):
            place = str(entry["name"]).rstrip("/")
            name = place.removeprefix(f"{root}/")
            if place == folder or any(part.startswith(".") for part in name.split("/")):
                continue
            if entry["type"] == "directory":
                folders.append(place)
            elif name.endswith(suffixes):
                url = str(filesystem.unstrip_protocol(place))
                target = entry if entry["type"] == "file" else _target_of_link(filesystem, place, url)
                if target["type"] == "file":
                    files.append(ListedFile(name, url, int(target["size"])))
    return sorted(files, key=lambda file: file.name)


def _remote_folder(filesystem: Any, folder: str) -> list[dict[str, Any]]:
    try:
        return list(filesystem.ls(folder, detail=True))
    except Exception as error:  # file systems behind fsspec raise whatever their clients raise
        where = str(filesystem.unstrip_protocol(folder))
        raise InputError(where, f"the folder cannot be listed ({error})", _REMEDY) from error


def _target_of_link(filesystem: Any, place: str, url: str) -> dict[str, Any]:
    try:
        return _remote_entry(filesystem, place, url)
    except MissingError as error:
        raise InputError(url, "is a link to something that is not there", _LINK_REMEDY) from error


def _remote_entry(filesystem: Any, place: str, path: str) -> dict[str, Any]:
    try:
        return dict(filesystem.info(place))
    except FileNotFoundError as error:
        raise MissingError(path) from error
    except Exception as error:  # as above
        raise InputError(path, f"cannot be read ({error})", _REMEDY) from error
