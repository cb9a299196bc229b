"""The root of a store, whose marker names the study that owns it and the version of its layout."""

import errno
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from influence_assets.durable.temporary import is_temporary_name
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts import locks, mending, ownership
from influence_assets.storage.artifacts.listing import every_place
from influence_assets.storage.artifacts.manifest import FORMAT_VERSION, READABLE_VERSIONS
from influence_assets.storage.artifacts.names import PUBLISHING_LOCK
from influence_assets.storage.backend import Backend

MARKER = "influence_store.json"
_CHECKSUM = "checksum"
_UNCLAIMED = {PUBLISHING_LOCK, ".dagster", "lost+found", ".DS_Store", ".gitignore", ".gitkeep"}
"""Names that a folder may contain before it becomes a store: what another process makes at the same time, the UI's
instance, and what operating systems put into empty folders."""


def prepare(backend: Backend, study: str) -> str | None:
    """Create the root of a study's store, or check that it is one.

    A damaged marker is written again if the artifacts show whose store it is. A store of format 3 gets the records that
    it lacks and is marked with the current version. Earlier releases then refuse it, because they would not understand
    what is written from now on.

    Returns:
        What was wrong with the marker, as a clause, if it was written again; None otherwise.

    Raises:
        InputError: the root cannot be written, or holds the store of another study, or other files.
        StorageError: the store was written by another version, or its marker is damaged and nothing else tells whose
            store it is.
    """
    problem = None
    try:
        _refuse_folder_of_others(backend, study)
        _prepare_root(backend)
        if backend.size(MARKER) is None:
            with locks.named_lock(backend, PUBLISHING_LOCK):
                if backend.size(MARKER) is None:
                    backend.write(MARKER, _marker(study))
        if (problem := _damage_of_marker(backend, study)) is not None:
            with locks.named_lock(backend, PUBLISHING_LOCK):
                backend.write(MARKER, _marker(study))
        if _format_version(backend, study) != FORMAT_VERSION or problem is not None:
            with locks.shared_lock(backend):
                mending.write_missing_records(backend, list(every_place(backend, with_records=False)), study)
            backend.write(MARKER, _marker(study))
    except OSError as error:
        problem = f"{backend.location} cannot be written ({error.strerror or error})"
        remedy = "Choose a folder that you may write to, or free some space there."
        raise InputError("storage.root", problem, remedy) from error
    return problem


def _prepare_root(backend: Backend) -> None:
    """Prepare the root; a store on a full disk can be opened, so that things can be removed from it.

    Raises:
        OSError: the root cannot be written for another reason.
    """
    try:
        backend.prepare()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or backend.size(MARKER) is None:
            raise


def _marker(study: str) -> bytes:
    fields: dict[str, Any] = {"format_version": FORMAT_VERSION, "study": study}
    return json.dumps(fields | {_CHECKSUM: _checksum(fields)}).encode()


def _checksum(fields: Mapping[str, Any]) -> str:
    covered = {name: value for name, value in fields.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def _damage_of_marker(backend: Backend, study: str) -> str | None:
    """Return how the marker is damaged, as a clause, if the artifacts show that the store is this study's.

    Markers from before they had a checksum are damaged if they cannot be read, or name a study without artifacts.

    Raises:
        StorageError: it is damaged, and there is no artifact of this study.
    """
    try:
        fields = json.loads(backend.read(MARKER))
        owner, version = str(fields["study"]), int(fields["format_version"])
    except (ValueError, KeyError, TypeError):
        problem = "cannot be read"
    else:
        is_plain = fields.keys() == {"format_version", "study"} or version not in READABLE_VERSIONS
        if fields.get(_CHECKSUM, _checksum(fields) if is_plain else None) != _checksum(fields):
            problem = "is not as it was written"
        elif _CHECKSUM not in fields and owner != study and not _holds_artifacts(backend, owner):
            problem = f"names the study {owner!r}, of which there is no artifact"
        else:
            return None
    if _holds_artifacts(backend, study):
        return problem
    if problem.startswith("names"):
        return None
    raise StorageError(
        f"{backend.local_root / MARKER}: {problem}, and there is no artifact of the study {study!r} beside it. Choose "
        "another storage.root; or restore the file, or remove the whole folder if nothing in it is needed."
    )


def _refuse_folder_of_others(backend: Backend, study: str) -> None:
    """Raise if a folder without a marker is in use, unless artifacts show that it is a store that lost its marker."""
    if backend.size(MARKER) is not None:
        return
    names = [entry.name for entry in backend.entries("")]
    foreign = [name for name in names if name not in _UNCLAIMED and not is_temporary_name(name)]
    # Another process may have created the store since the names were listed.
    if not foreign or backend.size(MARKER) is not None or _holds_artifacts(backend, study):
        return
    problem = f"{backend.location} is not a store of this product and holds other things ({', '.join(foreign[:3])})"
    raise InputError("storage.root", problem, "Name a new or empty folder that is used for nothing else.")


def _holds_artifacts(backend: Backend, study: str) -> bool:
    return any(ownership.is_artifact(backend, place, study) for place in every_place(backend, with_records=False))


def _format_version(backend: Backend, study: str) -> int:
    """Return the format version of the store, after checking that it can be read and belongs to this study."""
    marker = backend.local_root / MARKER
    try:
        fields = json.loads(backend.read(MARKER))
        version, owner = fields["format_version"], fields["study"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{marker}: cannot be read. Choose another storage.root, or repair the file.") from error
    if owner != study:
        problem = f"{backend.location} is the store of the study {owner!r}, not of {study!r}"
        raise InputError("storage.root", problem, f"Choose another storage.root, or name the study {owner!r}.")
    if version not in READABLE_VERSIONS:
        remedy = "Choose another storage.root, or use the version that wrote it."
        raise StorageError(f"{marker}: has format version {version}, but {FORMAT_VERSION} is needed. {remedy}")
    return int(version)
