"""Files and folders that exist whole or not at all, even after a power cut."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from influence_assets.durable.temporary import temporary_beside


def write_atomically(path: Path, content: bytes, *, beside: Path | None = None) -> None:
    """Write or replace a file in one step; once this returns it is synced to the disk.

    A file that is replaced keeps its permissions.

    Args:
        path: the file, in a folder that exists.
        content: the file's new content.
        beside: the path beside which the temporary file is written; by default the file itself.

    Raises:
        OSError: the disk reports an error; the previous file is then unchanged.
    """
    temporary = temporary_beside(beside or path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_with_folders(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file or folder, together with the folders that are missing above it in one step.

    A process that is killed meanwhile leaves a temporary folder, which is known as such, and never an empty folder,
    which could be anybody's. If another process makes the folders meanwhile, nothing is made.

    Args:
        path: what is made.
        make: makes it at the path that it is given, whose folder exists.

    Raises:
        OSError: the disk reports an error.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    if not missing:
        make(path)
        return
    highest = missing[-1]
    temporary = temporary_beside(highest)
    try:
        inside = temporary / path.relative_to(highest)
        inside.parent.mkdir(parents=True)
        make(inside)
        try:
            temporary.rename(highest)
        except OSError:
            if not highest.exists():
                raise
    finally:
        delete(temporary)


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Sync a file's content to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Sync a folder's entries (names, not contents) to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def files_below(folder: Path) -> list[Path]:
    """Return every file in a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def folders_below(folder: Path) -> list[Path]:
    """Return the folder itself and every subfolder, the deepest last."""
    return [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]


def bytes_below(folder: Path) -> int:
    """Return the total size of all files in a folder and its subfolders."""
    return sum(path.lstat().st_size for path in files_below(folder))


def is_real_folder(path: Path) -> bool:
    """Return whether there is a folder, and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def is_empty_folder(path: Path) -> bool:
    """Return whether there is an empty folder, and not a link to one."""
    return is_real_folder(path) and not any(path.iterdir())


def delete(path: Path) -> None:
    """Delete a file, a link, or a folder with its contents; do nothing if there is none."""
    if is_real_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
