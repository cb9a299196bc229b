"""Names and places of everything in a store.

`<asset>/<partition or "all">/<data version>/` is an artifact. Beside it, in the partition's folder, are
`.record-<data version>.json`, a copy of its manifest that outlives it, and the partition's locks.
"""

from influence_assets.durable.names import safe_name
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.backend import Backend

MANIFEST = "manifest.json"
ARRAYS = "arrays"
DAMAGE_MARK = "damaged.json"
STORE_LOCK = ".in_use"
PUBLISHING_LOCK = ".lock"
PARTITION_LOCK = ".claim"
_RECORD_PREFIX, _RECORD_SUFFIX = ".record-", ".json"


def partition_name(partition: str | None) -> str:
    """Return the name of a partition's folder."""
    return "all" if partition is None else safe_name(partition)


def folder_of(asset: str, partition: str | None) -> str:
    """Return the folder of a partition, whether it exists or not."""
    return f"{safe_name(asset)}/{partition_name(partition)}"


def place_of(key: ArtifactKey) -> str:
    """Return the folder of an artifact, whether it exists or not."""
    return f"{folder_of(key.asset, key.partition)}/{safe_name(key.data_version)}"


def parent_of(name: str) -> str:
    """Return the folder that contains a file or folder."""
    return name.rpartition("/")[0]


def record_of(place: str) -> str:
    """Return the file of an artifact's record, which is outside the artifact's folder so that it can outlive it."""
    folder, _, version = place.rpartition("/")
    return f"{folder}/{_RECORD_PREFIX}{version}{_RECORD_SUFFIX}"


def visible_folders(backend: Backend, folder: str) -> list[str]:
    """Return the folders in a folder that are not hidden, sorted."""
    subfolders = [entry for entry in backend.entries(folder) if entry.is_folder and not entry.name.startswith(".")]
    prefix = f"{folder}/" if folder else ""
    return [prefix + entry.name for entry in subfolders]


def places_in(backend: Backend, partition_folder: str, *, with_records: bool) -> list[str]:
    """Return the folders of a partition's artifacts, sorted; with records, also those that left only a record."""
    versions = set()
    for entry in backend.entries(partition_folder):
        if not entry.name.startswith("."):
            if entry.is_folder and not entry.is_link:
                versions.add(entry.name)
        elif with_records and entry.name.startswith(_RECORD_PREFIX):
            versions.add(entry.name.removeprefix(_RECORD_PREFIX).removesuffix(_RECORD_SUFFIX))
    return [f"{partition_folder}/{version}" for version in sorted(versions)]
