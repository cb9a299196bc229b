"""Ownership: what in a store this product made. Everything else belongs to the user and is left alone.

A name proves nothing: any folder three levels below the root could be an artifact's. So everything is marked from the
moment when it is made: an artifact by its manifest and by the record beside its folder, the root by its marker, and
temporary files and locks by what `durable` gives them.
"""

from typing import NoReturn

from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import Manifest, is_of_study, named_files, salvaged
from influence_assets.storage.artifacts.names import ARRAYS, DAMAGE_MARK, MANIFEST, place_of, record_of
from influence_assets.storage.backend import Backend


def is_artifact(backend: Backend, place: str, study: str) -> bool:
    """Return whether a folder is an artifact of this study, damaged or not, going by its manifest or its record."""
    if not backend.is_folder(place):
        return False
    if _speaks_for(backend, f"{place}/{MANIFEST}", place, study):
        return True
    return is_record(backend, place, study) and _holds_anything_of(backend, place)


def is_record(backend: Backend, place: str, study: str) -> bool:
    """Return whether the record beside a place exists and describes that place, damaged or not."""
    return _speaks_for(backend, record_of(place), place, study)


def own_files(backend: Backend, place: str, manifest: Manifest | None) -> tuple[list[str], list[str]]:
    """Return the names of an artifact's files and links, and of those in its folder that do not belong to it.

    Args:
        backend: the store's files.
        place: the artifact's folder.
        manifest: the artifact's, or None if it can no longer be read. Its tables and arrays are then known by where
            they are, and other files by the names that damaged copies of the manifest still have.
    """
    below = backend.files_below(place)
    if manifest is not None:
        own = set(manifest.files)
    else:
        copies = [_content(backend, name) for name in (f"{place}/{MANIFEST}", record_of(place))]
        own = {name for content in copies for name in named_files(content)}
        own |= {name for name in below if name.startswith(f"{ARRAYS}/") or _is_table(name)}
    own |= {MANIFEST, DAMAGE_MARK}
    return [name for name in below if name in own], [name for name in below if name not in own]


def refuse_foreign(backend: Backend, name: str) -> NoReturn:
    """Raise the error for something that this product did not make in the place of an artifact.

    Raises:
        StorageError: always.
    """
    problem = f"{backend.local_root / name}: lies where an artifact belongs, but this product did not make it"
    raise StorageError(f"{problem}. Move it away and run again.")


def _speaks_for(backend: Backend, name: str, place: str, study: str) -> bool:
    """Return whether a file is the manifest, damaged or not, of the artifact that belongs in a place."""
    content = _content(backend, name)
    try:
        manifest = salvaged(content)
    except ValueError:
        return is_of_study(content, study)
    return manifest.study == study and place_of(manifest.key) == place


def _content(backend: Backend, name: str) -> bytes:
    """Return the content of a file, or nothing if it cannot be read."""
    try:
        return backend.read(name)
    except OSError:
        return b""


def _is_table(name: str) -> bool:
    return "/" not in name and name.endswith(".parquet")


def _holds_anything_of(backend: Backend, place: str) -> bool:
    """Return whether a folder holds any file of the artifact that its record describes."""
    names = set(backend.files_below(place))
    try:
        own = {MANIFEST, DAMAGE_MARK, *salvaged(backend.read(record_of(place))).files}
    except (OSError, ValueError):
        return bool(names)
    return not own.isdisjoint(names)
