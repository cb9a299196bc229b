"""Which partitions one pass of the model computes, and what they cost."""

from collections.abc import Mapping, Sequence

from influence_assets.assets.study_sizes import StudySizes
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import AssetState

Places = list[tuple[AssetDefinition, Partition]]
Groups = Mapping[str, list[Places]]
"""For each shard the groups of partitions that one pass computes together."""


def cost_of(sizes: StudySizes, asset: AssetDefinition, partitions: Sequence[Partition], groups: Groups) -> Cost:
    """Return the cost of computing some partitions of an asset.

    Args:
        sizes: of the study.
        asset: the asset.
        partitions: of it.
        groups: for each shard, which partitions one pass of the model computes.
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
    """Return which partitions one pass computes, shard by shard: of what is outstanding, and of what stands.

    A shard that comes to a standing generation has all of its assets outstanding, and computed by one pass; else what
    feeds the curvature takes a pass each. What stands of a shard that the generation was fitted on was computed so too.
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
            apart = sizes.was_fitted(shard) if is_standing else not sizes.has_generation
            grouped[is_standing][shard] = _grouped(of_shard, sizes, apart=apart)
    return grouped


def _grouped(places: Places, sizes: StudySizes, *, apart: bool) -> list[Places]:
    """One group for all that can share a pass; what is measured apart is a group by itself."""
    alone: list[Places] = []
    together: Places = []
    for asset, partition in places:
        measures = asset.measures
        is_alone = measures is not None and ((apart and measures.fits) or not measures.joins(sizes.study))
        if is_alone:
            alone.append([(asset, partition)])
        else:
            together.append((asset, partition))
    return [*alone, together] if together else alone
