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
        key_and_inputs: its key and those of its inputs.
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
        sizes: a cache of the bytes that held inputs take in memory, shared between calls.
    """
    if asset.measures is None:
        return []
    room = asset.measures.shared_pass.largest_held_bytes
    members: list[Member] = []
    for place in _outstanding(versions, versions.workspace.graph.sharing_a_pass_with(asset), shard):
        key_and_inputs = versions.key_and_inputs(*place)
        if key_and_inputs is None:
            continue
        needed = sum(_held_bytes(versions, place[0], key, sizes) for key in key_and_inputs[1])
        if needed <= room:
            room -= needed
            members.append(Member(*place, key_and_inputs))
    return members


def _outstanding(
    versions: Versions, assets: Iterable[AssetDefinition], shard: str
) -> Iterable[tuple[AssetDefinition, Partition]]:
    """Yield a shard's outstanding partitions that can take part."""
    for asset in assets:
        if not asset.is_due_in(versions.workspace.study):
            continue
        for partition in _partitions_of_shard(versions, asset, shard):
            can_join = asset.measures is not None and asset.measures.joins(versions, partition)
            if can_join and not versions.stands(asset, partition):
                yield asset, partition


def _partitions_of_shard(versions: Versions, asset: AssetDefinition, shard: str) -> list[Partition]:
    if asset.partitioned_by == "shard":
        return [Partition(shard=shard)]
    return [Partition(shard, query_set) for query_set in versions.workspace.query_sets]


def _held_bytes(versions: Versions, asset: AssetDefinition, key: ArtifactKey, sizes: dict[ArtifactKey, int]) -> int:
    """Return the bytes that an input of an asset takes in memory during the pass; 0 if it is not held."""
    if asset.measures is None or key.asset not in asset.measures.held:
        return 0
    if key not in sizes:
        workspace = versions.workspace
        sizes[key] = asset.measures.held_bytes(workspace.study, workspace.store.open(key).manifest)
    return sizes[key]
