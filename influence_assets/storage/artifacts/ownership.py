"""Ownership: what in a store this product made. Everything else belongs to the user and is left alone.

A name proves nothing: any folder three levels below the root could be an artifact's. So everything is marked from the
moment when it is made: an artifact by its manifest and by the record beside its folder, the root by its marker, and
temporary files and locks by what `durable` gives them.
"""

from typing import NoReturn

from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import Manifest, is_of_study, salvaged
from influence_assets.storage.artifacts.names import DAMAGE_MARK, MANIFEST, place_of, record_of
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


def foreign_files(backend: Backend, place: str, manifest: Manifest) -> list[str]:
    """Return the names of files and links in an artifact's folder that do not belong to the artifact."""
    own = {MANIFEST, DAMAGE_MARK, *manifest.files}
    return [name for name in backend.files_below(place) if name not in own]


def refuse_foreign(backend: Backend, name: str) -> NoReturn:
    """Raise the error for something that this product did not make in the place of an artifact.

    Raises:
        StorageError: always.
    """
    problem = f"{backend.local_root / name}: lies where an artifact belongs, but this product did not make it"
    raise StorageError(f"{problem}. Move it away and run again.")


def _speaks_for(backend: Backend, name: str, place: str, study: str) -> bool:
    """Return whether a file is the manifest, damaged or not, of the artifact that belongs in a place."""
    try:
        content = backend.read(name)
    except OSError:
        return False
    try:
        manifest = salvaged(content)
    except ValueError:
        return is_of_study(content, study)
    return manifest.study == study and place_of(manifest.key) == place


def _holds_anything_of(backend: Backend, place: str) -> bool:
    """Return whether a folder holds any file of the artifact that its record describes."""
    names = set(backend.files_below(place))
    try:
        own = {MANIFEST, DAMAGE_MARK, *salvaged(backend.read(record_of(place))).files}
    except (OSError, ValueError):
        return bool(names)
    return not own.isdisjoint(names)
