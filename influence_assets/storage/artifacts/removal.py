"""Removal of artifacts, either entirely or all but their records."""

from contextlib import suppress

from influence_assets.storage.artifacts import ownership
from influence_assets.storage.artifacts.manifest import Manifest, sealed
from influence_assets.storage.artifacts.names import MANIFEST, parent_of, record_of
from influence_assets.storage.backend import Backend
from influence_assets.storage.disk_errors import removing, writing


def remove_artifact(backend: Backend, place: str, study: str, manifest: Manifest | None) -> int:
    """Remove an artifact and its record, and return the number of bytes freed.

    Args:
        backend: the store's files.
        place: the artifact's folder, which need not exist.
        study: the study that owns the store; nothing is removed that does not belong to it.
        manifest: the artifact's, or None if it can no longer be read.

    Raises:
        StorageError: the disk reports an error; call again to finish.
    """
    has_record = ownership.is_record(backend, place, study)
    with removing(place.rpartition("/")[2], backend.local_root / parent_of(place)):
        freed = _remove_folder(backend, place, study, manifest)
        return freed + (backend.remove(record_of(place)) if has_record else 0)


def reduce_artifact(backend: Backend, place: str, manifest: Manifest) -> int:
    """Remove an artifact except for its record, and return the number of bytes freed.

    Raises:
        StorageError: the disk reports an error; call again to finish.
    """
    write_record(backend, place, manifest, is_alone=True)
    with removing(place.rpartition("/")[2], backend.local_root / parent_of(place)):
        return _remove_folder(backend, place, manifest.study, manifest)


def write_record(backend: Backend, place: str, manifest: Manifest, *, is_alone: bool) -> None:
    """Write an artifact's manifest beside its folder, where it outlives the folder.

    Args:
        backend: the store's files.
        place: the artifact's folder.
        manifest: the artifact's.
        is_alone: whether the record is all that is left of the artifact. It then holds the manifest twice, so that
            one copy can repair the other, as a manifest and its record do.

    Raises:
        StorageError: the disk reports an error.
    """
    record, content = record_of(place), sealed(manifest) * (2 if is_alone else 1)
    with writing("the record of an artifact", backend.local_root / parent_of(place)):
        old_content = backend.read(record) if backend.size(record) is not None else b""
        if old_content == content:
            return
        try:
            backend.write(record, content)
        except OSError:
            # On a full disk one intact copy must do: the removal that follows makes room.
            if old_content not in (sealed(manifest), sealed(manifest) * 2):
                raise


def clear(backend: Backend, place: str, study: str, manifest: Manifest | None) -> None:
    """Make room for an artifact by removing a damaged one from its place.

    Raises:
        StorageError: the place holds something that this product did not make.
    """
    if ownership.is_artifact(backend, place, study):
        _, foreign = ownership.own_files(backend, place, manifest)
        if foreign:
            ownership.refuse_foreign(backend, f"{place}/{foreign[0]}")
        with suppress(OSError):  # what was renamed but cannot be deleted now is left for the next process
            backend.remove(place)


def _remove_folder(backend: Backend, place: str, study: str, manifest: Manifest | None) -> int:
    """Remove an artifact's files from its folder, leave other files in place, and return the bytes freed."""
    if not ownership.is_artifact(backend, place, study):
        return 0
    own, foreign = ownership.own_files(backend, place, manifest)
    if foreign:
        # The manifest goes last, so that an interrupted removal can be resumed.
        return backend.remove_files(place, [*(name for name in own if name != MANIFEST), MANIFEST])
    return backend.remove(place)
