"""Responses to damage: artifacts are marked, records are repaired."""

from collections.abc import Sequence

from influence_assets.storage.artifacts import damage, ownership, removal
from influence_assets.storage.backend import Backend


def mark_or_mend(backend: Backend, place: str, study: str, files: Sequence[str], problem: str) -> bool:
    """Mark an artifact as damaged, or repair its record if nothing else is damaged. Hold the publishing lock.

    Args:
        backend: the store's files.
        place: the artifact's folder.
        study: the study that owns the store.
        files: the damaged files, by path inside the folder.
        problem: what is wrong, in one clause.

    Returns:
        Whether the record was repaired.

    Raises:
        StorageError: the disk reports an error.
    """
    if not damage.is_of_record(files) and ownership.is_artifact(backend, place, study):
        damage.mark(backend, place, files, problem)
        return False
    if damage.find_damage(backend, place, study) is None:
        return False
    return _mend_record(backend, place, study)


def write_missing_records(backend: Backend, places: Sequence[str], study: str) -> None:
    """Write the records of artifacts that lack them, as artifacts of format 3 do.

    Raises:
        StorageError: the disk reports an error.
    """
    for place in places:
        manifest = damage.known_manifest(backend, place, study, with_records=False)
        if manifest is not None and not ownership.is_record(backend, place, study):
            removal.write_record(backend, place, manifest, is_alone=False)


def _mend_record(backend: Backend, place: str, study: str) -> bool:
    """Rewrite a damaged record, or remove it if no copy can be read, and return whether it was repaired."""
    manifest = damage.known_manifest(backend, place, study, with_records=True)
    if manifest is None:
        removal.remove_artifact(backend, place, study, None)
        return False
    removal.write_record(backend, place, manifest, is_alone=not ownership.is_artifact(backend, place, study))
    return True
