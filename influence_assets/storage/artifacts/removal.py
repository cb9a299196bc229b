"""Taking away: artifacts whole, or all but a record of them."""

from contextlib import suppress

from influence_assets.storage.artifacts import ownership
from influence_assets.storage.artifacts.manifest import Manifest, sealed
from influence_assets.storage.artifacts.names import DAMAGE_MARK, MANIFEST, parent_of, record_of
from influence_assets.storage.backend import Backend
from influence_assets.storage.disk_errors import removing, writing


def remove_artifact(backend: Backend, place: str, study: str, manifest: Manifest | None) -> int:
    """Remove an artifact and its record, and return the bytes freed.

    Args:
        backend: where it is.
        place: the artifact's folder, there or not.
        study: the study that owns the store; nothing is removed that is not this study's.
        manifest: the artifact's, or None where it cannot be read any more.

    Raises:
        StorageError: the disk refuses; run again, then.
    """
    has_record = ownership.is_record(backend, place, study)
    with removing(place.rpartition("/")[2], backend.local_root / parent_of(place)):
        freed = _remove_folder(backend, place, study, manifest)
        return freed + (backend.remove(record_of(place)) if has_record else 0)


def reduce_artifact(backend: Backend, place: str, manifest: Manifest) -> int:
    """Remove an artifact, all but a record of it, and return the bytes freed.

    Raises:
        StorageError: the disk refuses; run again, then.
    """
    write_record(backend, place, manifest, is_alone=True)
    with removing(place.rpartition("/")[2], backend.local_root / parent_of(place)):
        return _remove_folder(backend, place, manifest.study, manifest)


def write_record(backend: Backend, place: str, manifest: Manifest, *, is_alone: bool) -> None:
    """Write an artifact's manifest beside its folder, where it outlives it.

    Args:
        backend: where it is.
        place: the artifact's folder.
        manifest: the artifact's.
        is_alone: whether the record is all that is left: it then holds the manifest twice, so that one copy mends the
            other as a manifest and its record do.

    Raises:
        StorageError: the disk refuses.
    """
    record, content = record_of(place), sealed(manifest) * (2 if is_alone else 1)
    with writing("the record of an artifact", backend.local_root / parent_of(place)):
        held = backend.read(record) if backend.size(record) is not None else b""
        if held == content:
            return
        try:
            backend.write(record, content)
        except OSError:
            # On a full disk one whole copy must do: what is about to be removed is what makes room.
            if held not in (sealed(manifest), sealed(manifest) * 2):
                raise


def clear(backend: Backend, place: str, study: str, manifest: Manifest | None) -> None:
    """Make room for an artifact: what damaged one lies in its place is removed.

    Raises:
        StorageError: something lies there that the product did not make.
    """
    if ownership.is_artifact(backend, place, study):
        foreign = ownership.foreign_files(backend, place, manifest) if manifest is not None else []
        if foreign:
            ownership.refuse_foreign(backend, f"{place}/{foreign[0]}")
        with suppress(OSError):  # what was moved away but cannot be deleted now is left for the next process
            backend.remove(place)


def _remove_folder(backend: Backend, place: str, study: str, manifest: Manifest | None) -> int:
    """Remove what an artifact's folder holds; files in it that are not the artifact's stay where they are."""
    if not ownership.is_artifact(backend, place, study):
        return 0
    if manifest is not None and ownership.foreign_files(backend, place, manifest):
        # The manifest comes last: a removal that is broken off is taken up again.
        return backend.remove_files(place, [*manifest.files, DAMAGE_MARK, MANIFEST])
    return backend.remove(place)
