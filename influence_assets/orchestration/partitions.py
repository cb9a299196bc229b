"""Partitions: one for each source file, one for each query file, their pairs for scores, and those that assets list."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from influence_assets.engine.partitions import Partitioning
from influence_assets.engine.workspace import Workspace
from influence_assets.study import Study


@dataclass(frozen=True)
class Partitions:
    """The partition definitions of one study; each study of a workspace has its own."""

    shard: dg.DynamicPartitionsDefinition
    query_set: dg.DynamicPartitionsDefinition
    pair: dg.MultiPartitionsDefinition

    @classmethod
    def of(cls, study: Study) -> "Partitions":
        """Return the partitions of a study."""
        shard = dg.DynamicPartitionsDefinition(name=f"{study.name}_shards")
        query_set = dg.DynamicPartitionsDefinition(name=f"{study.name}_query_sets")
        return cls(shard, query_set, dg.MultiPartitionsDefinition({"shard": shard, "query_set": query_set}))

    def definition(self, partitioning: Partitioning, listed: Sequence[str] = ()) -> dg.PartitionsDefinition[str] | None:
        """Return Dagster's definition of a kind of partition.

        Args:
            partitioning: the kind.
            listed: the names of the partitions, if the asset lists them.
        """
        if partitioning == "listed":
            return dg.StaticPartitionsDefinition(listed)
        return {"none": None, "shard": self.shard, "query_set": self.query_set, "pair": self.pair}[partitioning]

    def mapping(self, upstream: Partitioning, downstream: Partitioning) -> dg.PartitionMapping | None:
        """Return how an asset reads another: the same shard or query set if both have one, else all partitions."""
        if upstream == "none":
            return None
        if upstream == downstream != "listed":
            return dg.IdentityPartitionMapping()
        kinds = {upstream, downstream}
        if downstream == "none" or "listed" in kinds or kinds == {"shard", "query_set"}:
            return dg.AllPartitionMapping()
        single = upstream if downstream == "pair" else downstream
        return dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name=single)

    def unregistered(
        self, workspace: Workspace, instance: dg.DagsterInstance
    ) -> dict[dg.DynamicPartitionsDefinition, list[str]]:
        """Return keys of source and query files that the instance does not have yet. Keys of deleted files are kept."""
        present = {self.shard: list(workspace.shards), self.query_set: list(workspace.query_sets)}
        unregistered = {}
        for definition, keys in present.items():
            registered = set(instance.get_dynamic_partitions(str(definition.name)))
            unregistered[definition] = [key for key in keys if key not in registered]
        return unregistered

    def register(self, workspace: Workspace, instance: dg.DagsterInstance) -> int:
        """Register the files that exist with the instance, and return how many are new."""
        unregistered = self.unregistered(workspace, instance)
        for definition, keys in unregistered.items():
            if keys:
                instance.add_dynamic_partitions(str(definition.name), keys)
        return sum(map(len, unregistered.values()))
