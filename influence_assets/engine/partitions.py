"""Partitions of assets: one for each shard, each query set or each pair of them, or a single one."""

from dataclasses import dataclass
from typing import Literal

Partitioning = Literal["none", "shard", "query_set", "pair"]
PAIR_SEPARATOR = "|"
"""Separates query set and shard in the partition key of a pair; the order and the character are Dagster's."""


@dataclass(frozen=True)
class Partition:
    """A partition of an asset, given by its shard, its query set, both or neither."""

    shard: str | None = None
    query_set: str | None = None

    @property
    def key(self) -> str | None:
        """The partition's key in Dagster; None if the asset has no partitions."""
        if self.shard is not None and self.query_set is not None:
            return f"{self.query_set}{PAIR_SEPARATOR}{self.shard}"
        return self.shard if self.query_set is None else self.query_set

    @classmethod
    def parse(cls, partitioning: Partitioning, key: str | None) -> "Partition":
        """Return the partition with this key, of an asset with this partitioning."""
        if partitioning == "pair" and key is not None:
            query_set, shard = key.split(PAIR_SEPARATOR, 1)
            return cls(shard, query_set)
        return cls(shard=key) if partitioning == "shard" else cls(query_set=key)
