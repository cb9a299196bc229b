"""A store in a folder of a local disk. Names are paths in that folder; `local_root` is the folder itself.

Files are written under a hidden name beside their place, synced and renamed; what is removed is renamed first. Only
what this product made is removed, replaced or renamed: temporary files and folders are recognised by their names and
lock files by their content; callers know which files artifacts own.
"""

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from influence_assets.durable import files, locks
from influence_assets.durable.temporary import is_abandoned, is_temporary_name, temporary_beside
from influence_assets.storage.backend import Backend, BackendKind, Entry

_HIDDEN_FOLDERS = (".cache", ".copies")
"""Folders that hold small files, as the root does."""

_DEPTH_OF_ARTIFACTS = 3
"""`<asset>/<partition>/<version>/`: temporary files are never put into these, which hold only artifacts' files."""


class LocalBackend(Backend):
    """A folder of a local disk.

    Args:
        root: its path.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._prefix = f"{root}/"

    @property
    def location(self) -> str:
        """The folder's path."""
        return str(self._root)

    @property
    def local_root(self) -> Path:
        """The folder itself."""
        return self._root

    def prepare(self) -> None:
        """Create the folder, and check that a file can be written in it."""
        self._root.mkdir(parents=True, exist_ok=True)
        trial = temporary_beside(self._root / "trial")
        try:
            trial.write_text("It can be written.", encoding="utf-8")
        finally:
            trial.unlink(missing_ok=True)

    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder."""
        try:
            entries = [
                Entry(entry.name, entry.is_dir(), entry.is_symlink()) for entry in os.scandir(self._path(folder))
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entries, key=lambda entry: entry.name)

    def files_below(self, folder: str) -> list[str]:
        """Return the names of all files and links below a folder; links to folders are not followed."""
        top = self._path(folder)
        return sorted(
            Path(above, name).relative_to(top).as_posix()
            for above, folders, names in os.walk(top)
            for name in [*names, *(name for name in folders if Path(above, name).is_symlink())]
        )

    def size(self, name: str) -> int | None:
        """Return a file's size."""
        try:
            return os.stat(self._prefix + name).st_size  # noqa: PTH116  # a Path costs three times as much
        except OSError:
            return None

    def is_folder(self, name: str) -> bool:
        """Return whether there is a folder, and not a link to one."""
        return files.is_real_folder(self._path(name))

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return self._path(name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file through a temporary one beside it."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_in_artifact = name.count("/") >= _DEPTH_OF_ARTIFACTS
        files.write_atomically(path, content, beside=path.parent if is_in_artifact else path)

    def fetch(self, name: str, *, again: bool = False) -> Path:  # noqa: ARG002  # files are local already
        """Return the path of a file or folder, which is local already."""
        return self._path(name)

    @contextmanager
    def draft(self, folder: str) -> Iterator[Path]:
        """Yield a hidden folder beside the place, locked so that no other process takes it for an abandoned one."""
        path = temporary_beside(self._path(folder))
        try:
            while not path.exists():
                files.make_with_folders(path, Path.mkdir)
            with locks.holding(path):
                yield path
        finally:
            with suppress(OSError):
                files.delete(path)

    def publish(self, draft: Path, folder: str) -> None:
        """Publish a draft by renaming it."""
        path = self._path(folder)
        if os.path.lexists(path) and not files.is_empty_folder(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        draft.rename(path)
        for above in (path.parent, *list(path.parent.parents)[: folder.count("/")]):
            files.sync_folder(above)

    def remove(self, name: str) -> int:
        """Remove a file or folder: rename it to a temporary name, then delete it."""
        path = self._path(name)
        temporary = temporary_beside(path)
        try:
            path.rename(temporary)
        except FileNotFoundError:
            return 0
        files.sync_folder(path.parent)
        freed = files.bytes_below(temporary) if files.is_real_folder(temporary) else temporary.lstat().st_size
        files.delete(temporary)
        return freed

    def remove_files(self, folder: str, names: Collection[str]) -> int:
        """Remove files one by one."""
        top, freed = self._path(folder), 0
        for name in names:
            with suppress(FileNotFoundError):
                freed += (top / name).lstat().st_size
                (top / name).unlink()
        for below in reversed(files.folders_below(top)):
            if files.is_empty_folder(below):
                below.rmdir()
        files.sync_folder(top.parent)
        return freed

    def locked(
        self, name: str, *, shared: bool = False, patience_seconds: float | None = None
    ) -> AbstractContextManager[None]:
        """Hold the lock file of that name."""
        return locks.locked(self._path(name), shared=shared, patience_seconds=patience_seconds)

    def remove_abandoned(self, *, including_live_elsewhere: bool) -> list[str]:
        """Remove temporary files and folders.

        Small files are written without a lock, so those of processes that may be alive are always left.
        """
        assets = self._real_folders(self._root)
        partitions = [partition for asset in assets for partition in self._real_folders(asset)]
        in_partitions = [path for folder in partitions for path in _temporary_in(folder)]
        tops = [self._root, *(self._root / name for name in _HIDDEN_FOLDERS), *assets]
        small = [path for folder in tops for path in _temporary_in(folder)]
        removed = []
        for path in [*in_partitions, *small]:
            if (including_live_elsewhere and path in in_partitions) or is_abandoned(path):
                if including_live_elsewhere:
                    files.delete(path)
                else:
                    with suppress(OSError):
                        files.delete(path)
                removed.append(path.relative_to(self._root).as_posix())
        return [name for name in removed if not os.path.lexists(self._root / name)]

    def remove_empty_folders(self) -> list[str]:
        """Remove folders of partitions that contain only locks, and folders of assets that have no others.

        Each is renamed first: of an empty one that a killed process left, nobody would know whose it is.
        """
        removed: list[Path] = []
        for asset in self._real_folders(self._root):
            emptied = [partition for partition in self._real_folders(asset) if _holds_locks_alone(partition)]
            removed += emptied
            if emptied and set(asset.iterdir()) == set(emptied):
                removed.append(asset)
                emptied = [asset]
            for folder in emptied:
                self.remove(folder.relative_to(self._root).as_posix())
        return [path.relative_to(self._root).as_posix() for path in removed]

    def _path(self, name: str) -> Path:
        return self._root / name

    def _real_folders(self, folder: Path) -> list[Path]:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in entries if not path.name.startswith(".") and files.is_real_folder(path)]


def _temporary_in(folder: Path) -> list[Path]:
    if not files.is_real_folder(folder):
        return []
    return [path for path in sorted(folder.iterdir()) if is_temporary_name(path.name)]


def _holds_locks_alone(folder: Path) -> bool:
    """Return whether a folder contains locks of this product and nothing else, so that it was a partition's."""
    entries = list(folder.iterdir())
    return bool(entries) and all(map(locks.is_lock, entries))


BACKEND = BackendKind(name="local", open=LocalBackend)
