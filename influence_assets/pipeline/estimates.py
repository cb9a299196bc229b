"""What a study will take before it runs: operations, time, memory and bytes of each stage, and what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from influence_assets.capture.operations import matrix_rate
from influence_assets.pipeline.costs import Cost, Groups, Places, StudyCosts
from influence_assets.pipeline.plan import StepState, plan
from influence_assets.pipeline.steps import Step
from influence_assets.pipeline.study_sizes import StudySizes
from influence_assets.pipeline.together import STEPS_OF_ONE_PASS


@dataclass(frozen=True)
class Measured:
    """What the partitions of a stage that stand took.

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
        step: the stage.
        partitions: all.
        outstanding: those that are to be computed.
        operations: of these, counted from the layers' shapes; 0 where the model is not run.
        seconds: of these; None where nothing is known.
        is_calibrated: whether the seconds come of what was measured, not of the machine's best rate.
        peak_memory_bytes: of the process, or of the device; None where the model is not run.
        bytes: that these will write; None where nothing is known.
        measured: of those that stand.
    """

    step: Step
    partitions: int
    outstanding: int
    operations: float
    seconds: float | None
    is_calibrated: bool
    peak_memory_bytes: int | None
    bytes: float | None
    measured: Measured | None


def groups_of(sizes: StudySizes, states: Sequence[StepState]) -> tuple[Groups, Groups]:
    """Of what is outstanding, and of what stands, which partitions one pass of the model computes, shard by shard.

    A shard that comes to a standing generation has all of its steps outstanding, and computed by one pass; else A, S
    and Λ take a pass each. What stands of a shard that the generation was fitted on was computed so too.
    """
    found: tuple[dict[str, list[Places]], dict[str, list[Places]]] = ({}, {})
    one_by_one = sizes.versions.workspace.study.curvature.fit_sequences is not None
    for shard in sizes.versions.workspace.shards:
        places: tuple[Places, Places] = ([], [])
        for state in states:
            if state.step.name in STEPS_OF_ONE_PASS:
                for partition in state.partitions:
                    if partition.partition.shard == shard:
                        places[partition.state == "standing"].append((state.step, partition.partition))
        for is_standing, of_shard in enumerate(places):
            apart = one_by_one or (sizes.was_fitted(shard) if is_standing else not sizes.has_generation)
            found[is_standing][shard] = _grouped(of_shard, apart=apart)
    return found


def _grouped(places: Places, *, apart: bool) -> list[Places]:
    if not apart:
        return [places] if places else []
    alone = [[place] for place in places if place[0].name in ("covariances", "corrected_eigenvalues")]
    rest = [place for place in places if place[0].name in ("gradient_sketches", "influence_scores")]
    return [*alone, rest] if rest else alone


def measured(sizes: StudySizes, state: StepState) -> Measured | None:
    """What the manifests of a stage's standing partitions say; None where there are none."""
    found = [sizes.manifest(state.step, partition.partition) for partition in state.of("standing")]
    manifests = [manifest for manifest in found if manifest is not None]
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
    """Every stage of the study, in the graph's order."""
    states = list(plan(sizes.versions))
    outstanding, standing = groups_of(sizes, states)
    costs = StudyCosts(sizes)
    workspace = sizes.versions.workspace
    rate = matrix_rate(workspace.device, workspace.study.model.dtype)
    found = []
    for state in states:
        cost = costs.of(state.step, [p.partition for p in state.outstanding], outstanding)
        before = costs.of(state.step, [p.partition for p in state.of("standing")], standing)
        seen = measured(sizes, state)
        seconds, is_calibrated = _seconds(cost, before, seen, rate)
        found.append(
            Estimate(
                state.step, len(state.partitions), len(state.outstanding), cost.operations,
                seconds, is_calibrated, costs.peak_memory(state.step), _bytes(cost, before, seen), seen,
            )
        )  # fmt: skip
    return found


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
