"""What a study will take before it runs: operations, time, memory and bytes of each stage, and what was measured."""

from dataclasses import dataclass

from influence_assets.assets.study_sizes import StudySizes
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.plan import AssetState, plan
from influence_assets.forecast.groups import cost_of, groups_of
from influence_assets.models.devices import matrix_rate


@dataclass(frozen=True)
class Measured:
    """What the standing partitions of a stage took.

    Args:
        partitions: how many.
        seconds: of all of them; partitions that one pass computed are put down for equal parts of it.
        cpu_seconds: of all their threads.
        peak_memory_bytes: the largest.
        bytes: on the disk.
    """

    partitions: int
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a stage will take.

    Args:
        asset: whose stage it is.
        partitions: all.
        outstanding: those that are to be computed.
        operations: of these, counted from the layers' shapes; 0 where the model is not run.
        seconds: of these; None where nothing is known.
        is_calibrated: whether the seconds come of what was measured, not of the machine's best rate.
        peak_memory_bytes: of the process, or of the device; None where the model is not run.
        bytes: that these will write; None where nothing is known.
        measured: of those that stand.
    """

    asset: AssetDefinition
    partitions: int
    outstanding: int
    operations: float
    seconds: float | None
    is_calibrated: bool
    peak_memory_bytes: int | None
    bytes: float | None
    measured: Measured | None


def measured(sizes: StudySizes, state: AssetState) -> Measured | None:
    """Return what the manifests of a stage's standing partitions say; None where there are none."""
    stored = [sizes.manifest(state.asset, partition.partition) for partition in state.of("standing")]
    manifests = [manifest for manifest in stored if manifest is not None]
    if not manifests:
        return None
    return Measured(
        len(manifests),
        sum(manifest.seconds for manifest in manifests),
        sum(manifest.cpu_seconds for manifest in manifests),
        max(manifest.peak_memory_bytes for manifest in manifests),
        sum(manifest.bytes for manifest in manifests),
    )


def estimates(sizes: StudySizes) -> list[Estimate]:
    """Return the estimate of every stage of the study, in the graph's order."""
    states = list(plan(sizes.versions))
    outstanding, standing = groups_of(sizes, states)
    workspace = sizes.versions.workspace
    rate = matrix_rate(workspace.device, workspace.study.model.dtype)
    stages = []
    for state in states:
        cost = cost_of(sizes, state.asset, [p.partition for p in state.outstanding], outstanding)
        before = cost_of(sizes, state.asset, [p.partition for p in state.of("standing")], standing)
        seen = measured(sizes, state)
        seconds, is_calibrated = _seconds(cost, before, seen, rate)
        stages.append(
            Estimate(
                state.asset, len(state.partitions), len(state.outstanding), cost.operations,
                seconds, is_calibrated, state.asset.cost.memory(sizes), _bytes(cost, before, seen), seen,
            )
        )  # fmt: skip
    return stages


def _seconds(cost: Cost, before: Cost, seen: Measured | None, rate: float) -> tuple[float | None, bool]:
    """In proportion to what was measured of the same stage, else by the machine's rate; and which of the two."""
    for part, whole in ((cost.operations, before.operations), (cost.amount, before.amount)):
        if seen is not None and whole:
            return seen.seconds * part / whole, True
    return (cost.operations / rate if cost.operations else None), False


def _bytes(cost: Cost, before: Cost, seen: Measured | None) -> float | None:
    if cost.bytes is not None:
        return cost.bytes
    return seen.bytes * cost.amount / before.amount if seen is not None and before.amount else None
