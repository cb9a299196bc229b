"""Estimates the operations, time, memory and bytes of each stage, and reports what finished stages took."""

from dataclasses import dataclass

from influence_assets.assets.study_sizes import StudySizes
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.plan import AssetState, plan
from influence_assets.forecast.groups import cost_of, groups_of
from influence_assets.models.devices import matrix_rate


@dataclass(frozen=True)
class Measured:
    """What the `standing` partitions of a stage took.

    Args:
        partitions: the number of these partitions.
        seconds: their total time; partitions that share a pass are each charged an equal part of it.
        cpu_seconds: their total processor time, over all threads.
        peak_memory_bytes: the largest peak of any of them.
        bytes: their total size on disk.
    """

    partitions: int
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    bytes: int


Done = tuple[Cost, Measured | None]
"""What standing partitions of a stage cost by counting, and what they took."""


@dataclass(frozen=True)
class Estimate:
    """What a stage will take.

    Args:
        asset: the stage's asset.
        partitions: the number of all partitions.
        outstanding: the number of partitions to compute.
        operations: the operations of the outstanding partitions, counted from the layers' shapes; 0 if the model is
            not run.
        seconds: the time of the outstanding partitions; None if unknown.
        is_calibrated: whether `seconds` is derived from measurements rather than from the machine's best rate.
        peak_memory_bytes: the peak of the process or of the device; None if the model is not run.
        bytes: the bytes that the outstanding partitions will write; None if unknown.
        measured: what the `standing` partitions took.
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
    """Return what a stage's `standing` partitions took, from their manifests; None if there are none."""
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
    done: dict[str, Done] = {}
    for state in states:
        cost = cost_of(sizes, state.asset, [p.partition for p in state.outstanding], outstanding)
        before = cost_of(sizes, state.asset, [p.partition for p in state.of("standing")], standing)
        measurement = measured(sizes, state)
        done[state.asset.name] = before, measurement
        seconds, is_calibrated = _seconds(cost, before, measurement, rate)
        if not is_calibrated and (like := done.get(state.asset.cost.like or "")) is not None:
            seconds, is_calibrated = _seconds_like(cost, *like, seconds)
        stages.append(
            Estimate(
                state.asset, len(state.partitions), len(state.outstanding), cost.operations,
                seconds, is_calibrated, state.asset.cost.memory(sizes), _bytes(cost, before, measurement),
                measurement,
            )
        )  # fmt: skip
    return stages


def _seconds(cost: Cost, before: Cost, measurement: Measured | None, rate: float) -> tuple[float | None, bool]:
    """Return the seconds, from the stage's measurements or else the machine's rate, and whether they are measured."""
    for part, whole in ((cost.operations, before.operations), (cost.amount, before.amount)):
        if measurement is not None and whole:
            return measurement.seconds * part / whole, True
    return (cost.operations / rate if cost.operations else None), False


def _seconds_like(
    cost: Cost, before: Cost, measurement: Measured | None, otherwise: float | None
) -> tuple[float | None, bool]:
    """Return the seconds at the speed of another stage, which did `before`, and whether that was measured.

    Of its time and its processor time the lesser counts: the former is longer where other work kept the machine busy.
    """
    if measurement is None or not before.operations:
        return otherwise, False
    return min(measurement.seconds, measurement.cpu_seconds) * cost.operations / before.operations, True


def _bytes(cost: Cost, before: Cost, measurement: Measured | None) -> float | None:
    if cost.bytes is not None:
        return cost.bytes
    return measurement.bytes * cost.amount / before.amount if measurement is not None and before.amount else None
