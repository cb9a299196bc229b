"""What is outstanding, in an order in which it can be computed, and why. For the cost see `forecast`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from influence_assets.engine.checkpoints import is_checkpoint
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import MEMBER, Versions
from influence_assets.storage.artifacts.manifest import Manifest

State = Literal["standing", "missing", "stale", "waiting"]
CAUSES_NAMED = 3
STATE_SCHEMA = pl.Schema(
    dict.fromkeys(("asset", "partition", "state", "data_version", "standing_data_version", "cause"), pl.String)
)


@dataclass(frozen=True)
class PartitionState:
    """The state of a partition.

    Args:
        asset: the partition's asset.
        partition: the partition.
        state: `standing` if the version that the study needs is stored, or no longer needed there; `missing` if it was
            never computed; `stale` if only another version is stored; `waiting` if an input is in one of the last three
            states.
        data_version: the version that the study needs; None while the partition is waiting.
        standing_data_version: the version that was stored last.
        cause: why the partition is not `standing`.
    """

    asset: AssetDefinition
    partition: Partition
    state: State
    data_version: str | None
    standing_data_version: str | None = None
    cause: str | None = None


@dataclass(frozen=True)
class AssetState:
    """The states of an asset's partitions.

    Args:
        asset: the asset.
        partitions: the states of all its partitions.
    """

    asset: AssetDefinition
    partitions: Sequence[PartitionState]

    def of(self, *states: State) -> list[PartitionState]:
        """Return the partitions in one of these states."""
        return [partition for partition in self.partitions if partition.state in states]

    @property
    def outstanding(self) -> list[PartitionState]:
        """The partitions that are not `standing`."""
        return self.of("missing", "stale", "waiting")


def plan(versions: Versions) -> Iterator[AssetState]:
    """Yield the state of every asset, in the graph's order; of an ensemble's member, only of its own.

    Assets that are computed on request only are left out while there is and is to be nothing of them.
    """
    for asset in versions.workspace.graph:
        if versions.of(asset) is not versions:
            continue
        partitions = versions.partitions(asset)
        if partitions or not asset.on_request:
            yield AssetState(asset, [_state(versions, asset, partition) for partition in partitions])


def state_rows(states: Sequence[AssetState]) -> pl.DataFrame:
    """Return the states as rows of `partition_states`."""
    rows = [
        (p.asset.name, p.partition.key, p.state, p.data_version, p.standing_data_version, p.cause)
        for asset in states
        for p in asset.partitions
    ]
    return pl.DataFrame(rows, schema=STATE_SCHEMA, orient="row")


def _state(versions: Versions, asset: AssetDefinition, partition: Partition) -> PartitionState:
    key_and_inputs = versions.key_and_inputs(asset, partition)
    if key_and_inputs is not None and versions.stands(asset, partition):
        version = key_and_inputs[0].data_version
        return PartitionState(asset, partition, "standing", version, version)
    last = _last(versions, asset, partition)
    standing = None if last is None else last.data_version
    if key_and_inputs is None:
        missing = versions.missing_inputs(asset, partition)
        waits_for = _few(missing) or "the study's own model"
        return PartitionState(asset, partition, "waiting", None, standing, f"waits for {waits_for}")
    version = key_and_inputs[0].data_version
    if last is None:
        return PartitionState(asset, partition, "missing", version, None, "was never computed")
    cause = _cause(versions, asset, partition, last)
    return PartitionState(asset, partition, "stale", version, standing, cause)


def _last(versions: Versions, asset: AssetDefinition, partition: Partition) -> Manifest | None:
    """Return the manifest of the version of a partition that was computed last for the same member of the ensemble."""
    workspace = versions.workspace
    stored = workspace.store.manifests(asset.name, partition.key, with_damaged=True)
    own = (manifest for manifest in stored if manifest.summary.get(MEMBER, 0) == versions.of(asset).number)
    manifests = (manifest for manifest in own if not is_checkpoint(manifest))
    return max(manifests, key=lambda manifest: manifest.started_at, default=None)


def _cause(versions: Versions, asset: AssetDefinition, partition: Partition, last: Manifest) -> str:
    key_and_inputs = versions.key_and_inputs(asset, partition)
    assert key_and_inputs is not None  # noqa: S101  # the caller has checked it
    key, inputs = key_and_inputs
    if last.key == key:
        return asset.damage
    if last.code_version != asset.code_version:
        return f"its code now has version {asset.code_version}"
    settings = versions.settings(asset)
    if changed := [name for name in settings if last.settings.get(name) != settings[name]]:
        return f"the study's {_few(changed)} changed"
    before, now = set(last.inputs), set(inputs)
    if named := sorted({f"{k.asset}[{k.partition}]" if k.partition else k.asset for k in before ^ now}):
        return f"{_few(named)} changed"
    return asset.source_change(versions.workspace, partition, last)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - CAUSES_NAMED} more" if len(names) > CAUSES_NAMED else ""
    return ", ".join(names[:CAUSES_NAMED]) + more
