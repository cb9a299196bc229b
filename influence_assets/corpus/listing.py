"""Listings of the files below a folder, local or behind an fsspec URL, that never silently leave anything out.

A file that is missing from a later listing counts as deleted. So a folder that cannot be read, an entry that cannot be
examined, and one that is neither a file nor a folder of files are errors, never gaps.
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
_FOLDER_LINK_REMEDY = (
    "Put the folder itself there, name the real folder in the study (its `path` may be a link), or remove the link."
)
_ENTRY_REMEDY = "Put a file or a folder there, or delete it."
_FOLDER_REMEDY = "Put the file there, or rename or delete the folder."


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

    Hidden files and folders, and files with other suffixes, are skipped. Links to files are followed; links to folders
    are refused, because following them could read a file twice, or without end.

    Args:
        path: a local folder or an fsspec URL; a local path is never taken for a chain of URLs.
        suffixes: endings of the names.

    Returns:
        None if `path` is a file.

    Raises:
        MissingError: there is nothing at `path`.
        InputError: something at or below it cannot be read, is a link to a folder, is neither file nor folder, or is a
            folder with a file's name in which there is no file; the error names it.
    """
    filesystem, root = _located(path)
    if filesystem is not None:
        return _remote_files(filesystem, root, path, suffixes)
    if not stat.S_ISDIR(_local_state(root, path).st_mode):
        return None
    return sorted(_local_files(root, "", suffixes), key=lambda file: file.name)


def other_files(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the names of the files below a folder that `files_below` skips because of their suffix, sorted.

    Hidden files and folders are left out. What cannot be listed is left out too: `files_below` raises its error.
    """
    filesystem, root = _located(path)
    try:
        if filesystem is None:
            found = [place.relative_to(root).as_posix() for place in Path(root).rglob("*") if place.is_file()]
        else:
            found = [str(place).removeprefix(f"{root}/") for place in filesystem.find(root)]
    except Exception:  # noqa: BLE001  # file systems behind fsspec raise whatever their clients raise
        return []
    visible = (name for name in found if not any(part.startswith(".") for part in name.split("/")))
    return sorted(name for name in visible if not name.endswith(suffixes))


def file_at(path: str) -> ListedFile:
    """Return the file at a path; its name is the last part of the path.

    Raises:
        MissingError: there is nothing at `path`.
        InputError: what is there cannot be examined or is not a regular file.
    """
    filesystem, root = _located(path)
    name = root.rpartition("/")[2]
    if filesystem is None:
        state = _local_state(root, path)
        if not stat.S_ISREG(state.st_mode):
            raise _not_a_file(path)
        return ListedFile(name, root, state.st_size)
    entry = _remote_entry(filesystem, root, path)
    if entry["type"] != "file":
        raise _not_a_file(path)
    return ListedFile(name, path, int(entry["size"]))


def is_folder_at(path: str) -> bool | None:
    """Return whether there is a folder at a path; None if there is nothing.

    Raises:
        InputError: the path cannot be examined.
    """
    filesystem, root = _located(path)
    try:
        if filesystem is None:
            return stat.S_ISDIR(_local_state(root, path).st_mode)
        return bool(_remote_entry(filesystem, root, path)["type"] == "directory")
    except MissingError:
        return None


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
                files = list(_local_files(root, f"{name}/", suffixes))
                if not files and name.endswith(suffixes):
                    raise _folder_instead_of_file(f"{root}/{name}")
                yield from files
            elif (size := _size_of_file(entry, suffixes)) is not None:
                yield ListedFile(name, f"{root}/{name}", size)
        except OSError as error:
            raise InputError(f"{root}/{name}", f"cannot be read ({error.strerror or error})", _REMEDY) from error


def _size_of_file(entry: os.DirEntry[str], suffixes: tuple[str, ...]) -> int | None:
    """Return the size of an entry that is a file with one of the suffixes, or a link to one; None for other entries.

    Raises:
        InputError: the entry is a broken link, which may mean either a deleted file or one that cannot be reached, or
            it is not a file, so that what was there may have been moved behind it.
        OSError: the entry cannot be examined.
    """
    is_wanted = entry.name.endswith(suffixes)
    if not is_wanted and entry.is_file(follow_symlinks=False):
        return None
    try:
        state = entry.stat()
    except FileNotFoundError as error:
        if entry.is_symlink():
            raise InputError(entry.path, "is a link to something that is not there", _LINK_REMEDY) from error
        return None  # removed a moment ago
    if stat.S_ISDIR(state.st_mode):
        raise _link_to_folder(entry.path)
    if not stat.S_ISREG(state.st_mode):
        raise _not_a_file(entry.path)
    return state.st_size if is_wanted else None


def _link_to_folder(place: str) -> InputError:
    return InputError(place, "is a link to a folder, and only links to files are followed", _FOLDER_LINK_REMEDY)


def _not_a_file(place: str) -> InputError:
    return InputError(place, "is not a regular file", _ENTRY_REMEDY)


def _folder_instead_of_file(place: str) -> InputError:
    return InputError(place, "is a folder with the name of a file, and there is no file in it to read", _FOLDER_REMEDY)


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
    folders, like_files = [root], []
    while folders:
        folder = folders.pop()
        for entry in _remote_folder(filesystem, folder, _url_below(path, folder.removeprefix(root).lstrip("/"))):
            place = str(entry["name"]).rstrip("/")
            name = place.removeprefix(f"{root}/")
            if place == folder or any(part.startswith(".") for part in name.split("/")):
                continue
            if entry["type"] == "directory":
                folders.append(place)
                like_files += [name] if name.endswith(suffixes) else []
            elif entry["type"] != "file" or name.endswith(suffixes):
                url = _url_below(path, name)
                target = entry if entry["type"] == "file" else _target_of_link(filesystem, place, url)
                if name.endswith(suffixes):
                    files.append(ListedFile(name, url, int(target["size"])))
    for name in like_files:
        if not any(file.name.startswith(f"{name}/") for file in files):
            raise _folder_instead_of_file(_url_below(path, name))
    return sorted(files, key=lambda file: file.name)


def _url_below(path: str, name: str) -> str:
    """Return the URL of something below a folder. The file system itself knows it without host and reference."""
    address, mark, parameters = path.partition("?")
    return address.rstrip("/") + (f"/{name}" if name else "") + mark + parameters


def _remote_folder(filesystem: Any, folder: str, where: str) -> list[dict[str, Any]]:
    try:
        return list(filesystem.ls(folder, detail=True))
    except Exception as error:  # file systems behind fsspec raise whatever their clients raise
        raise InputError(where, f"the folder cannot be listed ({error})", _REMEDY) from error


def _target_of_link(filesystem: Any, place: str, url: str) -> dict[str, Any]:
    try:
        target = _remote_entry(filesystem, place, url)
    except MissingError as error:
        raise InputError(url, "is a link to something that is not there", _LINK_REMEDY) from error
    if target["type"] == "directory":
        raise _link_to_folder(url)
    if target["type"] != "file":
        raise _not_a_file(url)
    return target


def _remote_entry(filesystem: Any, place: str, path: str) -> dict[str, Any]:
    try:
        return dict(filesystem.info(place))
    except FileNotFoundError as error:
        raise MissingError(path) from error
    except Exception as error:  # as above
        raise InputError(path, f"cannot be read ({error})", _REMEDY) from error
