"""Listings of a store: the folders of its partitions and artifacts."""

import enum
from collections.abc import Iterator
from typing import Final

from influence_assets.durable.names import safe_name
from influence_assets.storage.artifacts.names import partition_name, places_in, visible_folders
from influence_assets.storage.backend import Backend


class EveryPartition(enum.Enum):
    """The type of `EVERY_PARTITION`. None cannot mean it: it is the only partition of assets without partitions."""

    EVERY_PARTITION = enum.auto()


EVERY_PARTITION: Final = EveryPartition.EVERY_PARTITION


def partition_folders(
    backend: Backend, asset: str | None = None, partition: str | EveryPartition | None = EVERY_PARTITION
) -> Iterator[str]:
    """Yield the folders of partitions, sorted. A folder that is asked for by name need not exist.

    Args:
        backend: the store's files.
        asset: only folders of this asset.
        partition: only the folder of this partition; None is the only one of assets without partitions.
    """
    assets = visible_folders(backend, "") if asset is None else [safe_name(asset)]
    for folder in assets:
        if isinstance(partition, EveryPartition):
            yield from visible_folders(backend, folder)
        else:
            yield f"{folder}/{partition_name(partition)}"


def every_place(backend: Backend, *, with_records: bool) -> Iterator[str]:
    """Yield the folders that may hold artifacts, sorted; with records, also those of which only a record is left."""
    for folder in partition_folders(backend):
        yield from places_in(backend, folder, with_records=with_records)
