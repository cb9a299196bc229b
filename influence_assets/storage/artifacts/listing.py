"""What lies in a store: the folders of partitions and of artifacts."""

import enum
from collections.abc import Iterator
from typing import Final

from influence_assets.durable.names import safe_name
from influence_assets.storage.artifacts.names import partition_name, places_in, visible_folders
from influence_assets.storage.backend import Backend


class EveryPartition(enum.Enum):
    """The type of `EVERY_PARTITION`, which None cannot stand for: it is the partition of assets without any."""

    EVERY_PARTITION = enum.auto()


EVERY_PARTITION: Final = EveryPartition.EVERY_PARTITION


def partition_folders(
    backend: Backend, asset: str | None = None, partition: str | EveryPartition | None = EVERY_PARTITION
) -> Iterator[str]:
    """Give the folders of partitions, there or not, sorted.

    Args:
        backend: where they are.
        asset: of this asset alone.
        partition: of this partition alone; None is the only one of assets without partitions.
    """
    assets = visible_folders(backend, "") if asset is None else [safe_name(asset)]
    for folder in assets:
        if isinstance(partition, EveryPartition):
            yield from visible_folders(backend, folder)
        else:
            yield f"{folder}/{partition_name(partition)}"


def every_place(backend: Backend, *, with_records: bool) -> Iterator[str]:
    """Give the folders in which artifacts may lie, sorted; of artifacts that have a record alone too, if wanted."""
    for folder in partition_folders(backend):
        yield from places_in(backend, folder, with_records=with_records)
