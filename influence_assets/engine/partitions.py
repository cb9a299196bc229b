"""Partitions of assets: one for each shard, query set or pair of them, those that the asset lists, or a single one."""

from dataclasses import dataclass
from typing import Literal

Partitioning = Literal["none", "shard", "query_set", "pair", "listed"]
PAIR_SEPARATOR = "|"
"""Separates query set and shard in the partition key of a pair; the order and the character are Dagster's."""


@dataclass(frozen=True)
class Partition:
    """A partition of an asset, given by its shard, its query set, both, a name, or nothing."""

    shard: str | None = None
    query_set: str | None = None
    name: str | None = None

    @property
    def key(self) -> str | None:
        """The partition's key in Dagster; None if the asset has no partitions."""
        if self.shard is not None and self.query_set is not None:
            return f"{self.query_set}{PAIR_SEPARATOR}{self.shard}"
        if self.name is not None:
            return self.name
        return self.shard if self.query_set is None else self.query_set

    @classmethod
    def parse(cls, partitioning: Partitioning, key: str | None) -> "Partition":
        """Return the partition with this key, of an asset with this partitioning."""
        if partitioning == "pair" and key is not None:
            query_set, shard = key.split(PAIR_SEPARATOR, 1)
            return cls(shard, query_set)
        if partitioning == "listed":
            return cls(name=key)
        return cls(shard=key) if partitioning == "shard" else cls(query_set=key)
