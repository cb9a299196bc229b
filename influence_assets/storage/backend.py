"""The contract under everything that a store does with its medium: a folder, an object store, anything of that kind.

A store is a tree of files with names such as `documents/all/1f3a/manifest.json`, relative to its root. Adding a medium
takes one file in `backends/` (or in an extension's, see `influence_assets.extensions`) that defines `BACKEND`, and a
test class that inherits `tests.storage.backend_contract.BackendContract`.

Some things must be files of this machine: the DuckDB file, Dagster's instance, caches, drafts, and whatever is read
through a memory map or by a library that takes paths. They lie in `local_root`. On a local disk that is the medium
itself; elsewhere it is a working folder of the backend's, with copies of what `fetch` was asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from influence_assets.errors import InputError
from influence_assets.extensions import discover

LOCAL = "local"
"""The backend of roots that are plain paths."""


@dataclass(frozen=True)
class Entry:
    """What lies in a folder of the store.

    Args:
        name: its name in the folder.
        is_folder: whether it is a folder, or a link to one.
        is_link: whether it is a link, which only local disks have.
    """

    name: str
    is_folder: bool
    is_link: bool = False


class Backend(ABC):
    """Where a store keeps its files. What the medium refuses is raised as an `OSError` with its number."""

    @property
    @abstractmethod
    def location(self) -> str:
        """The root as people know it, the same for every process."""

    @property
    @abstractmethod
    def local_root(self) -> Path:
        """The folder of this machine with what must be local files, and with what was fetched."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the root and `local_root` where they are missing, and see that both can be written."""

    @abstractmethod
    def entries(self, folder: str) -> list[Entry]:
        """Return what lies in a folder, sorted by name; nothing where there is no such folder. `""` is the root.

        What `draft` makes, and what half-done work of killed processes has left, may be among it under the names of
        `durable.temporary`.
        """

    @abstractmethod
    def files_below(self, folder: str) -> list[str]:
        """Return the names of all files and links below a folder, relative to it, sorted."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, or None where there is no such file. Made to be asked of thousands."""

    @abstractmethod
    def is_folder(self, name: str) -> bool:
        """Whether a folder is there that is not a link."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a small file's content.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a small file, or replace it: whole or not at all, and safely kept once this returns."""

    @abstractmethod
    def fetch(self, name: str, *, again: bool = False) -> Path:
        """See that a file or folder can be read at `local_root / name`, and return that path.

        What is not there, or damaged, is not there or damaged at that path too.

        Args:
            name: of the file or folder.
            again: bring what the medium holds now, not a copy that was brought before.
        """

    @abstractmethod
    def draft(self, folder: str) -> AbstractContextManager[Path]:
        """Give a new empty folder of this machine, to be filled and published as `folder`.

        Leaving the block removes what was not published. A process that is killed leaves it to `remove_abandoned`.
        """

    @abstractmethod
    def publish(self, draft: Path, folder: str) -> None:
        """Make a draft's files those of a folder that is not there yet, safely kept once this returns.

        Whoever looks meanwhile finds the folder's `manifest.json` with all other files or not at all.

        Raises:
            FileExistsError: something lies there.
        """

    @abstractmethod
    def remove(self, name: str) -> int:
        """Remove a file, or a folder with all that is in it, and return the bytes freed; 0 where there is none.

        A process that dies on the way leaves nothing with a `manifest.json` that has lost other files.
        """

    @abstractmethod
    def remove_files(self, folder: str, names: Collection[str]) -> int:
        """Remove some files of a folder, and folders in it that this leaves empty; returns the bytes freed."""

    @abstractmethod
    def locked(
        self, name: str, *, shared: bool = False, patience_seconds: float | None = None
    ) -> AbstractContextManager[None]:
        """Hold a lock, between all threads and processes that use this store; it ends with its holder.

        Args:
            name: of the lock, by the rules of files; nothing but locks is called so.
            shared: together with others who share it.
            patience_seconds: how long to wait for it; None waits for ever.

        Raises:
            TimeoutError: somebody else still holds it.
        """

    @abstractmethod
    def remove_abandoned(self, *, of_everybody: bool) -> list[str]:
        """Remove what processes that have ended left half written or half removed, and return its names.

        Args:
            of_everybody: also of processes that may still be alive elsewhere, as far as they write artifacts: the
                caller knows that nobody is at work.
        """

    @abstractmethod
    def remove_empty_folders(self) -> list[str]:
        """Remove folders in which nothing is left but locks that were made here, and return their names."""


@dataclass(frozen=True)
class BackendKind:
    """A kind of medium, found by the scheme of `storage.root`.

    Args:
        name: the scheme, as in `name://…`.
        open: makes a backend of the whole value of `storage.root`, without touching the medium.
    """

    name: str
    open: Callable[[str], Backend]


def open_backend(root: str) -> Backend:
    """Return the backend of a storage root, a plain path or a URL.

    Raises:
        InputError: no backend has that scheme.
    """
    kinds = discover("influence_assets.storage.backends", "BACKEND", BackendKind)
    scheme = root.partition("://")[0] if "://" in root else LOCAL
    if scheme not in kinds:
        schemes = ", ".join(f"{name}://" for name in kinds if name != LOCAL)
        remedy = f"Name a local folder{f', or a URL of {schemes}' if schemes else ''}."
        raise InputError("storage.root", f"no storage backend has the scheme of {root}", remedy)
    return kinds[scheme].open(root)
