"""What the assets of one run share: what versions are asked for, and whom to tell how far the work is."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import dagster as dg

from influence_assets.pipeline.steps import Partition, Progress, Step
from influence_assets.pipeline.versions import Versions
from influence_assets.pipeline.workspace import Workspace
from influence_assets.study import Study

SECONDS_BETWEEN_REPORTS = 5.0


@dataclass
class Session:
    """One look at the study's files, kept for as long as a process works on a run.

    Args:
        versions: which version of each partition is asked for.
        listener: told (step, partition, done, total) instead of the run's log, where somebody watches.
        computed: partitions that were computed, in order.
    """

    versions: Versions
    listener: Callable[[Step, Partition, int, int | None], None] | None = None
    computed: list[tuple[Step, Partition]] = field(default_factory=list)

    def progress(self, context: dg.AssetExecutionContext, step: Step, partition: Partition) -> Progress:
        """Progress of one partition: to the listener, else every few seconds into the run's log."""
        if (listener := self.listener) is not None:
            return lambda done, total: listener(step, partition, done, total)
        reported = time.monotonic()

        def log(done: int, total: int | None) -> None:
            nonlocal reported
            if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                context.log.info(f"{done:,} of {total:,}" if total else f"{done:,}")

        return log


def resource_key(study: Study) -> str:
    """The key of a study's session among a code location's resources."""
    return f"{study.name}_session"


def session_resource(study: Study) -> dg.ResourceDefinition:
    """A fresh look at the study's files in every process that runs a step."""

    @dg.resource(description=f"A look at the files and the store of the study {study.name}.")
    def session(_context: dg.InitResourceContext) -> Session:
        return Session(Versions(Workspace(study)))

    return session
