"""What is outstanding, in the order in which it can be computed."""

from collections.abc import Iterator
from dataclasses import dataclass

from influence_assets.pipeline.graph import STEPS
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.versions import Versions


@dataclass(frozen=True)
class StepState:
    """How far a step is.

    Args:
        step: the step.
        standing: partitions that are in the store as the study asks for them.
        outstanding: partitions that are missing, or of which only another version is there.
        stale: the outstanding ones of which another version is there.
    """

    step: Step
    standing: tuple[Partition, ...]
    outstanding: tuple[Partition, ...]
    stale: tuple[Partition, ...]


def state(versions: Versions) -> Iterator[StepState]:
    """Every step's state, in the graph's order."""
    for step in STEPS:
        partitions = versions.partitions(step)
        standing = tuple(p for p in partitions if versions.stands(step, p))
        outstanding = tuple(p for p in partitions if p not in set(standing))
        others = (
            {manifest.partition for manifest in versions.workspace.store.manifests(step.name)} if outstanding else set()
        )
        stale = tuple(p for p in outstanding if p.key in others)
        yield StepState(step, standing, outstanding, stale)
