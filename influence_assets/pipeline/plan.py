"""What is outstanding, in the order in which it can be computed, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from influence_assets.pipeline.graph import STEPS
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.versions import Versions
from influence_assets.storage.manifest import ArtifactKey, Manifest

State = Literal["standing", "missing", "stale", "waiting"]
CAUSES_NAMED = 3
CATALOGUE = "influence_catalogue"
READ_FROM = {
    "language_model": "the model's files changed",
    "query_gradients": "its query file changed",
    CATALOGUE: "which documents are gone changed",
}
"""Why a step of the same code, settings and inputs is outdated."""

STATE_SCHEMA = pl.Schema(
    dict.fromkeys(("asset", "partition", "state", "data_version", "standing_data_version", "cause"), pl.String)
)


@dataclass(frozen=True)
class PartitionState:
    """How a partition is.

    Args:
        step: the step.
        partition: of it.
        state: `standing` as the study asks for it; `missing`; `stale`, of which another version is there; or `waiting`,
            while something that it reads is one of those.
        data_version: the version that is asked for; None while it waits.
        standing_data_version: the last version that is there.
        cause: why it does not stand.
    """

    step: Step
    partition: Partition
    state: State
    data_version: str | None
    standing_data_version: str | None = None
    cause: str | None = None


@dataclass(frozen=True)
class StepState:
    """How far a step is.

    Args:
        step: the step.
        partitions: all of them.
    """

    step: Step
    partitions: Sequence[PartitionState]

    def of(self, *states: State) -> list[PartitionState]:
        """The partitions in one of these states."""
        return [partition for partition in self.partitions if partition.state in states]

    @property
    def outstanding(self) -> list[PartitionState]:
        """The partitions that do not stand."""
        return self.of("missing", "stale", "waiting")


def plan(versions: Versions) -> Iterator[StepState]:
    """Every step's state, in the graph's order."""
    for step in STEPS:
        yield StepState(step, [_state(versions, step, partition) for partition in versions.partitions(step)])


def state_rows(states: Sequence[StepState]) -> pl.DataFrame:
    """The states as rows of `partition_states`."""
    rows = [
        (p.step.name, p.partition.key, p.state, p.data_version, p.standing_data_version, p.cause)
        for step in states
        for p in step.partitions
    ]
    return pl.DataFrame(rows, schema=STATE_SCHEMA, orient="row")


def _state(versions: Versions, step: Step, partition: Partition) -> PartitionState:
    found = versions.find(step, partition)
    if found is not None and versions.holds(found[0]):
        version = found[0].data_version
        return PartitionState(step, partition, "standing", version, version)
    last = _last(versions, step, partition)
    standing = None if last is None else last.data_version
    if found is None:
        missing = versions.missing_inputs(step, partition)
        return PartitionState(step, partition, "waiting", None, standing, f"waits for {_few(missing)}")
    if last is None:
        return PartitionState(step, partition, "missing", found[0].data_version, None, "was never computed")
    cause = _cause(versions, step, last, *found)
    return PartitionState(step, partition, "stale", found[0].data_version, standing, cause)


def _last(versions: Versions, step: Step, partition: Partition) -> Manifest | None:
    """What was computed last of a partition, whatever version it is."""
    there = versions.workspace.store.manifests(step.name, partition.key, with_damaged=True)
    return max(there, key=lambda manifest: manifest.started_at, default=None)


def _cause(versions: Versions, step: Step, last: Manifest, key: ArtifactKey, inputs: Sequence[ArtifactKey]) -> str:
    if last.key == key:
        return "its file is lost, damaged or of another time" if step.name == CATALOGUE else "its files are damaged"
    if last.code_version != step.code_version:
        return f"its code has version {step.code_version} now"
    settings = versions.settings(step)
    if changed := [name for name in settings if last.settings.get(name) != settings[name]]:
        return f"the study's {_few(changed)} changed"
    before, now = set(last.inputs), set(inputs)
    if named := sorted({f"{k.asset}[{k.partition}]" if k.partition else k.asset for k in before ^ now}):
        return f"{_few(named)} changed"
    if step.name == "documents":
        shard = versions.workspace.shard(str(key.partition))
        is_same = last.summary.get("content_hash") == shard.content_hash
        return "which of its documents are withdrawn changed" if is_same else "its source file changed"
    return READ_FROM.get(step.name, "what it was read from changed")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - CAUSES_NAMED} more" if len(names) > CAUSES_NAMED else ""
    return ", ".join(names[:CAUSES_NAMED]) + more
