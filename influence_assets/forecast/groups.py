"""Groups the partitions that one pass of the model computes, and adds up their costs."""

from collections.abc import Mapping, Sequence

from influence_assets.assets.study_sizes import StudySizes
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import AssetState

Places = list[tuple[AssetDefinition, Partition]]
Groups = Mapping[str, list[Places]]
"""For each shard, the groups of partitions that one pass computes together."""


def cost_of(sizes: StudySizes, asset: AssetDefinition, partitions: Sequence[Partition], groups: Groups) -> Cost:
    """Return the cost of computing some partitions of an asset.

    Args:
        sizes: the study's sizes.
        asset: the asset.
        partitions: the asset's partitions to compute.
        groups: for each shard, the groups of partitions that share a pass.
    """
    return sum((_cost_of_one(sizes, asset, partition, groups) for partition in partitions), Cost())


def _cost_of_one(sizes: StudySizes, asset: AssetDefinition, partition: Partition, groups: Groups) -> Cost:
    own = asset.cost.partition(sizes, partition)
    if asset.measures is None:
        return own
    shard = str(partition.shard)
    group = next(group for group in groups[shard] if any(member.name == asset.name for member, _ in group))
    return own + Cost(asset.measures.shared_pass.operations(sizes, shard, group) / len(group))


def groups_of(sizes: StudySizes, states: Sequence[AssetState]) -> tuple[Groups, Groups]:
    """Return the groups of partitions that share a pass, shard by shard: the outstanding ones, and the `standing` ones.

    If a shard is added to an existing generation, all of its assets are outstanding and share one pass.
    """
    grouped: tuple[dict[str, list[Places]], dict[str, list[Places]]] = ({}, {})
    for shard in sizes.versions.workspace.shards:
        places: tuple[Places, Places] = ([], [])
        for state in states:
            if state.asset.measures is not None:
                for partition in state.partitions:
                    if partition.partition.shard == shard:
                        places[partition.state == "standing"].append((state.asset, partition.partition))
        for is_standing, of_shard in enumerate(places):
            grouped[is_standing][shard] = _grouped(of_shard, sizes)
    return grouped


def _grouped(places: Places, sizes: StudySizes) -> list[Places]:
    """Return one group for everything that can share a pass, and a group for each partition that cannot."""
    separate: list[Places] = []
    shared: Places = []
    for asset, partition in places:
        measures = asset.measures
        if measures is not None and not measures.joins(sizes.versions, partition):
            separate.append([(asset, partition)])
        else:
            shared.append((asset, partition))
    return [*separate, shared] if shared else separate
