"""What in a store's folder the product made. Everything else is somebody's own and is neither touched nor reported.

A name proves nothing: any folder three levels below the root could be an artifact's. So everything carries a mark
from the moment when it is made: an artifact its manifest, and a record of it beside its folder; a draft a checksum in
its name; a lock file its content; the root its marker.
"""

import os
from pathlib import Path
from typing import NoReturn

from influence_assets.errors import StorageError
from influence_assets.storage.manifest import Manifest, is_of_study, salvaged
from influence_assets.storage.places import DAMAGE_MARK, MANIFEST, place_of, record_beside


def is_artifact(place: Path, study: str) -> bool:
    """Whether a folder is an artifact of this study, damaged or not: its manifest or its record says so."""
    if place.is_symlink() or not place.is_dir():
        return False
    return _speaks_for(place / MANIFEST, place, study) or (is_record(place, study) and _holds_anything_of(place))


def is_record(place: Path, study: str) -> bool:
    """Whether the record beside a place is there and of that place, damaged or not."""
    return _speaks_for(record_beside(place), place, study)


def foreign_files(place: Path, manifest: Manifest) -> list[str]:
    """The files and links in an artifact's folder that are not the artifact's, by path in it."""
    own = {MANIFEST, DAMAGE_MARK, *manifest.files}
    entries = (
        Path(folder, name).relative_to(place).as_posix()
        for folder, folders, files in os.walk(place)
        for name in [*files, *(name for name in folders if Path(folder, name).is_symlink())]
    )
    return sorted(name for name in entries if name not in own)


def refuse_foreign(path: Path, needed_for: str) -> NoReturn:
    """Raise where something that the product did not make lies where one of its files must go.

    Raises:
        StorageError: always.
    """
    problem = f"{path}: lies where {needed_for} belongs, and nothing says that this product made it"
    raise StorageError(f"{problem}. Move it away and run again.")


def _speaks_for(path: Path, place: Path, study: str) -> bool:
    """Whether a file is a manifest, damaged or not, of what belongs in a place."""
    try:
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except OSError:
        return False
    try:
        manifest = salvaged(content)
    except ValueError:
        return is_of_study(content, study)
    return manifest.study == study and place_of(place.parents[2], manifest.key) == place


def _holds_anything_of(place: Path) -> bool:
    """Whether a folder holds anything of the artifact that its record tells of."""
    try:
        names = salvaged(record_beside(place).read_bytes()).files
    except (OSError, ValueError):
        return True
    return any(os.path.lexists(place / name) for name in (MANIFEST, DAMAGE_MARK, *names))
