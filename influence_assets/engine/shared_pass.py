"""The partitions of a shard that one pass of the model can compute."""

from collections.abc import Iterable
from dataclasses import dataclass

from influence_assets.engine.definition import AssetDefinition, KeyAndInputs
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.storage.artifacts.manifest import ArtifactKey


@dataclass(frozen=True)
class Member:
    """A partition that a shared pass computes.

    Args:
        asset: the partition's asset.
        partition: the partition.
        key_and_inputs: its key and those of its inputs, which may be other members.
    """

    asset: AssetDefinition
    partition: Partition
    key_and_inputs: KeyAndInputs


def members_of_one_pass(
    versions: Versions, asset: AssetDefinition, shard: str, sizes: dict[ArtifactKey, int]
) -> list[Member]:
    """Return the outstanding partitions of a shard that one pass can compute; their other inputs are up to date.

    Args:
        versions: the versions to compute.
        asset: one of the assets that share the pass.
        shard: the shard.
        sizes: a cache of the sizes of held inputs in bytes, shared between calls.
    """
    if asset.measures is None:
        return []
    room = asset.measures.shared_pass.largest_held_bytes
    members: list[Member] = []
    keys: set[ArtifactKey] = set()
    for place in _outstanding(versions, versions.workspace.graph.sharing_a_pass_with(asset), shard):
        key_and_inputs = versions.key_and_inputs_beside(*place, keys)
        if key_and_inputs is None:
            continue
        held = place[0].measures.held if place[0].measures is not None else ()
        needed = sum(_bytes(versions, key, sizes) for key in key_and_inputs[1] if key.asset in held)
        if needed <= room:
            room -= needed
            members.append(Member(*place, key_and_inputs))
            keys.add(key_and_inputs[0])
    return members


def _outstanding(
    versions: Versions, assets: Iterable[AssetDefinition], shard: str
) -> Iterable[tuple[AssetDefinition, Partition]]:
    """Yield a shard's outstanding partitions that can take part."""
    for asset in assets:
        for partition in _partitions_of_shard(versions, asset, shard):
            can_join = asset.measures is not None and asset.measures.joins(versions, partition)
            if can_join and not versions.stands(asset, partition):
                yield asset, partition


def _partitions_of_shard(versions: Versions, asset: AssetDefinition, shard: str) -> list[Partition]:
    if asset.partitioned_by == "shard":
        return [Partition(shard=shard)]
    return [Partition(shard, query_set) for query_set in versions.workspace.query_sets]


def _bytes(versions: Versions, key: ArtifactKey, sizes: dict[ArtifactKey, int]) -> int:
    if key not in sizes:
        sizes[key] = versions.workspace.store.open(key).manifest.bytes
    return sizes[key]
