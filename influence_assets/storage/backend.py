"""The contract between a store and its medium: a local folder, an object store or anything similar.

A store is a tree of files with names such as `documents/all/1f3a/manifest.json`, relative to its root. Adding a medium
takes one file in `backends/` (or in an extension's, see `influence_assets.extensions`) that defines `BACKEND`, and a
test class that inherits `tests.storage.backend_contract.BackendContract`.

Some things must be files on this machine: the DuckDB file, Dagster's instance, caches, drafts, and whatever is read
through a memory map or by a library that takes paths. They are in `local_root`. On a local disk that is the medium
itself; otherwise it is the backend's working folder, with copies of what `fetch` has fetched.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from influence_assets.errors import InputError
from influence_assets.extensions import discover, own_parts

BACKENDS = "influence_assets.storage.backends"
LOCAL = "local"
"""The backend of roots that are plain paths."""


@dataclass(frozen=True)
class Entry:
    """A file, folder or link in a folder of the store.

    Args:
        name: its name in the folder.
        is_folder: whether it is a folder, or a link to one.
        is_link: whether it is a link, which only local disks have.
    """

    name: str
    is_folder: bool
    is_link: bool = False


class Backend(ABC):
    """The files of a store. Errors of the medium are raised as an `OSError` with its number."""

    @property
    @abstractmethod
    def location(self) -> str:
        """The root as people write it, the same for every process."""

    @property
    @abstractmethod
    def local_root(self) -> Path:
        """The folder on this machine for what must be local files, and for what was fetched."""

    @abstractmethod
    def prepare(self) -> None:
        """Create the root and `local_root` if they are missing, and check that both can be written."""

    @abstractmethod
    def entries(self, folder: str) -> list[Entry]:
        """Return the entries of a folder, sorted by name; none if there is no such folder. `""` is the root.

        They may include drafts and what killed processes left half done, under the names of `durable.temporary`.
        """

    @abstractmethod
    def files_below(self, folder: str) -> list[str]:
        """Return the names of all files and links below a folder, relative to it, sorted."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, or None if there is no such file. It must be cheap enough for thousands."""

    @abstractmethod
    def is_folder(self, name: str) -> bool:
        """Return whether there is a folder, and not a link to one."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a small file's content.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write or replace a small file, whole or not at all; it is durable once this returns."""

    @abstractmethod
    def fetch(self, name: str, *, again: bool = False) -> Path:
        """Make a file or folder readable at `local_root / name`, and return that path.

        What is missing or damaged on the medium is missing or damaged at that path too.

        Args:
            name: the file or folder.
            again: fetch it from the medium even if there is a local copy.
        """

    @abstractmethod
    def draft(self, folder: str) -> AbstractContextManager[Path]:
        """Yield a new empty folder on this machine, to be filled and published as `folder`.

        Leaving the block removes what was not published; `remove_abandoned` removes what killed processes leave.
        """

    @abstractmethod
    def publish(self, draft: Path, folder: str) -> None:
        """Publish a draft's files as a folder that does not exist yet; they are durable once this returns.

        Meanwhile, readers find the folder's `manifest.json` together with all other files, or not at all.

        Raises:
            FileExistsError: there is something in that place already.
        """

    @abstractmethod
    def remove(self, name: str) -> int:
        """Remove a file, or a folder with its contents, and return the bytes freed; 0 if there is neither.

        A process that dies meanwhile never leaves a folder that has its `manifest.json` but has lost other files.
        """

    @abstractmethod
    def remove_files(self, folder: str, names: Collection[str]) -> int:
        """Remove some files of a folder, and folders in it that this leaves empty, and return the bytes freed."""

    @abstractmethod
    def locked(
        self, name: str, *, shared: bool = False, patience_seconds: float | None = None
    ) -> AbstractContextManager[None]:
        """Hold a lock between all threads and processes that use this store; it ends when its holder ends.

        Args:
            name: the lock's name, which follows the rules of file names and is used for nothing else.
            shared: hold it together with others who share it.
            patience_seconds: how long to wait for it; None waits forever.

        Raises:
            TimeoutError: another thread or process still holds it.
        """

    @abstractmethod
    def remove_abandoned(self, *, including_live_elsewhere: bool) -> list[str]:
        """Remove what processes left half written or half removed when they ended, and return the names.

        Args:
            including_live_elsewhere: also remove the drafts of artifacts of processes that may be alive on other hosts;
                the caller knows that none is at work.
        """

    @abstractmethod
    def remove_empty_folders(self) -> list[str]:
        """Remove folders that contain only locks of this product, and return their names."""


@dataclass(frozen=True)
class BackendKind:
    """A kind of medium, found by the scheme of `storage.root`.

    Args:
        name: the scheme, as in `name://…`.
        open: returns the backend for a value of `storage.root`, without touching the medium.
    """

    name: str
    open: Callable[[str], Backend]


def open_backend(root: str) -> Backend:
    """Return the backend of a storage root, which is a plain path or a URL.

    A plain path needs no extension's code, so that a fault in one does not keep a local store from being opened.

    Raises:
        InputError: no backend has the URL's scheme.
    """
    if "://" not in root:
        return own_parts(BACKENDS, "BACKEND", BackendKind)[LOCAL].open(root)
    kinds = discover(BACKENDS, "BACKEND", BackendKind)
    scheme = root.partition("://")[0]
    if scheme not in kinds:
        schemes = ", ".join(f"{name}://" for name in kinds if name != LOCAL)
        remedy = f"Name a local folder{f', or a URL of {schemes}' if schemes else ''}."
        raise InputError("storage.root", f"no storage backend has the scheme of {root}", remedy)
    return kinds[scheme].open(root)
