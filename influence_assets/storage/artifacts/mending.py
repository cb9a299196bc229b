"""What is done about damage: artifacts are marked, records are mended."""

from collections.abc import Sequence

from influence_assets.storage.artifacts import damage, ownership, removal
from influence_assets.storage.backend import Backend


def mark_or_mend(backend: Backend, place: str, study: str, files: Sequence[str], problem: str) -> bool:
    """Mark an artifact as damaged, or mend its record if that is all that is. To be called with the publishing lock.

    Args:
        backend: where it is.
        place: the artifact's folder.
        study: the study that owns the store.
        files: what is damaged, by path inside the folder.
        problem: what is wrong, in one clause.

    Returns:
        Whether it was mended.

    Raises:
        StorageError: the disk refuses.
    """
    if not damage.is_of_record(files) and ownership.is_artifact(backend, place, study):
        damage.mark(backend, place, files, problem)
        return False
    if damage.find_damage(backend, place, study) is None:
        return False
    return _mend_record(backend, place, study)


def write_missing_records(backend: Backend, places: Sequence[str], study: str) -> None:
    """Write the records of artifacts that have none, as those of format 3 have not.

    Raises:
        StorageError: the disk refuses.
    """
    for place in places:
        manifest = damage.known_manifest(backend, place, study, with_records=False)
        if manifest is not None and not ownership.is_record(backend, place, study):
            removal.write_record(backend, place, manifest, is_alone=False)


def _mend_record(backend: Backend, place: str, study: str) -> bool:
    """Write a damaged record anew, or remove it where nothing of it is left, and return whether it was mended."""
    manifest = damage.known_manifest(backend, place, study, with_records=True)
    if manifest is None:
        removal.remove_artifact(backend, place, study, None)
        return False
    removal.write_record(backend, place, manifest, is_alone=not ownership.is_artifact(backend, place, study))
    return True
