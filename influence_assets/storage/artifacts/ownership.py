"""What in a store the product made. Everything else is somebody's own and is neither touched nor reported.

A name proves nothing: any folder three levels below the root could be an artifact's. So everything carries a mark
from the moment when it is made: an artifact its manifest, and a record of it beside its folder; the root its marker;
temporary files and locks what `durable` gives them.
"""

from typing import NoReturn

from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import Manifest, is_of_study, salvaged
from influence_assets.storage.artifacts.names import DAMAGE_MARK, MANIFEST, place_of, record_of
from influence_assets.storage.backend import Backend


def is_artifact(backend: Backend, place: str, study: str) -> bool:
    """Whether a folder is an artifact of this study, damaged or not: its manifest or its record says so."""
    if not backend.is_folder(place):
        return False
    if _speaks_for(backend, f"{place}/{MANIFEST}", place, study):
        return True
    return is_record(backend, place, study) and _holds_anything_of(backend, place)


def is_record(backend: Backend, place: str, study: str) -> bool:
    """Whether the record beside a place is there and of that place, damaged or not."""
    return _speaks_for(backend, record_of(place), place, study)


def foreign_files(backend: Backend, place: str, manifest: Manifest) -> list[str]:
    """Return the files and links in an artifact's folder that are not the artifact's, by name in it."""
    own = {MANIFEST, DAMAGE_MARK, *manifest.files}
    return [name for name in backend.files_below(place) if name not in own]


def refuse_foreign(backend: Backend, name: str) -> NoReturn:
    """Raise: something that the product did not make lies where an artifact must go.

    Raises:
        StorageError: always.
    """
    problem = f"{backend.local_root / name}: lies where an artifact belongs, and nothing says that this product made it"
    raise StorageError(f"{problem}. Move it away and run again.")


def _speaks_for(backend: Backend, name: str, place: str, study: str) -> bool:
    """Whether a file is a manifest, damaged or not, of what belongs in a place."""
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
    """Whether a folder holds anything of the artifact that its record tells of."""
    names = set(backend.files_below(place))
    try:
        own = {MANIFEST, DAMAGE_MARK, *salvaged(backend.read(record_of(place))).files}
    except (OSError, ValueError):
        return bool(names)
    return not own.isdisjoint(names)
