"""What the assets of one run share: what versions are asked for, and whom to tell how far the work is."""

import time
from dataclasses import dataclass, field
from functools import cached_property

import dagster as dg

from influence_assets.assets import open_workspace
from influence_assets.engine.bring_up import Result, Watcher
from influence_assets.engine.definition import AssetDefinition, Progress
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.study import Study

SECONDS_BETWEEN_REPORTS = 5.0


@dataclass
class Session:
    """One look at the study's files, kept for as long as a process works on a run.

    Args:
        study: the study.
        listener: told of beginnings and progress instead of the run's log, where somebody watches.
        result: what a run that brings everything up to date did.
        checks_failed: asset checks that did not hold in it, as `asset: check`.
        error: what ended it before its time.
    """

    study: Study
    listener: Watcher | None = None
    result: Result = field(default_factory=Result)
    checks_failed: list[str] = field(default_factory=list)
    error: BaseException | None = None

    @cached_property
    def versions(self) -> Versions:
        """Which version of each partition is asked for, in the newest generation."""
        return Versions(open_workspace(self.study))

    @cached_property
    def published(self) -> Versions:
        """The same in the generation that readers see."""
        return Versions(open_workspace(self.study), "published")

    def watcher(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Watcher:
        """Whom to tell: the listener, else the run's log."""
        return self.listener or _Log(context)

    def progress(self, context: dg.AssetExecutionContext, step: AssetDefinition, partition: Partition) -> Progress:
        """Progress of one partition."""
        watcher = self.watcher(context)
        return lambda done, total: watcher.progress(step, partition, done, total)


class _Log:
    """Every few seconds a line in the run's log."""

    def __init__(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
        self._context = context
        self._reported = time.monotonic()

    def begins(self, step: AssetDefinition, partition: Partition, outstanding: int) -> None:
        named = f"{step.name}[{partition.key}]" if partition.key else step.name
        self._context.log.info(f"{named}, the first of {outstanding} that are outstanding")

    def progress(self, step: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        if time.monotonic() - self._reported > SECONDS_BETWEEN_REPORTS:
            self._reported = time.monotonic()
            named = f"{step.name} {partition.key or ''}"
            self._context.log.info(f"{named}: {done:,} of {total:,}" if total else f"{named}: {done:,}")


def resource_key(study: Study) -> str:
    """The key of a study's session among a code location's resources."""
    return f"{study.name}_session"


def session_resource(study: Study) -> dg.ResourceDefinition:
    """A fresh look at the study's files in every process that runs a step."""

    @dg.resource(description=f"A look at the files and the store of the study {study.name}.")
    def session(_context: dg.InitResourceContext) -> Session:
        return Session(study)

    return session
