"""The state that the ops and assets of one run share: the study's versions, the work in progress, and its watcher."""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from influence_assets.assets import open_workspace
from influence_assets.engine.bring_up import Result, Watcher
from influence_assets.engine.definition import AssetDefinition, Progress
from influence_assets.engine.failed_checks import Recheck
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.orchestration.stages import Stages

SECONDS_BETWEEN_LINES = 5.0
"""The time between two lines of progress in a run's log."""


@dataclass
class Session:
    """The state of a run in one process, with one view of the study's files for the whole run.

    Args:
        study: the study that the run computes.
        listener: a watcher that follows the run's progress; without one, progress goes to the run's log.
        requested: the partitions that are wanted of assets that are computed on request only, by the asset's name.
        result: what the run has done so far.
        recheck: what became of the checks that are outstanding, once the run has ended.
        error: the error that ended the run early.
        stages: the run's work, once it has begun.
    """

    study: Study
    listener: Watcher | None = None
    requested: Mapping[str, Collection[Partition]] = field(default_factory=dict)
    result: Result = field(default_factory=Result)
    recheck: Recheck = field(default_factory=Recheck)
    error: BaseException | None = None
    stages: "Stages | None" = None

    @cached_property
    def versions(self) -> Versions:
        """The versions that the study needs of each partition, in the newest generation."""
        return Versions(open_workspace(self.study, self.requested))

    @cached_property
    def published(self) -> Versions:
        """The versions that the study needs of each partition, in the generation that readers see."""
        return Versions(open_workspace(self.study, self.requested), "published")

    @property
    def checks_failed(self) -> list[str]:
        """The checks that fail, as `asset[partition]: check`."""
        return [check.label for check in self.recheck.failed]

    def watcher(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Watcher:
        """Return the listener, or else a watcher that writes to the run's log."""
        return self.listener or _LogWatcher(context)

    def progress(self, context: dg.AssetExecutionContext, asset: AssetDefinition, partition: Partition) -> Progress:
        """Return the callback for the progress of one partition."""
        watcher = self.watcher(context)
        return lambda done, total: watcher.progress(asset, partition, done, total)

    @property
    def begun(self) -> "Stages":
        """The run's work, which must have begun."""
        if self.stages is None:
            raise RuntimeError("the run's work has not begun")
        return self.stages

    def close(self) -> None:
        """Stop the run's work, and release the store's locks."""
        if self.stages is not None:
            self.stages.close()


class _LogWatcher:
    """A watcher that writes a line to the run's log every few seconds."""

    def __init__(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
        self._context = context
        self._last_line = time.monotonic()
        self._of_member = ""

    def turns_to(self, member: int) -> None:
        self._of_member = f" of member {member}" if member else ""

    def begins(self, asset: AssetDefinition, partition: Partition, outstanding: int) -> None:
        self._context.log.info(f"{self._name(asset, partition)} begins; {outstanding:,} are outstanding")

    def progress(self, asset: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            name = self._name(asset, partition)
            self._context.log.info(f"{name}: {done:,} of {total:,}" if total else f"{name}: {done:,}")

    def _name(self, asset: AssetDefinition, partition: Partition) -> str:
        return (f"{asset.name}[{partition.key}]" if partition.key else asset.name) + self._of_member


def resource_key(study: Study) -> str:
    """Return the key of a study's session among a code location's resources."""
    return f"{study.name}_session"


def session_resource(study: Study) -> dg.ResourceDefinition:
    """Return a resource that opens a new session in every process that executes a step of a run."""

    @dg.resource(description=f"A look at the files and the store of the study {study.name}.")
    def session(_context: dg.InitResourceContext) -> Iterator[Session]:
        opened = Session(study)
        try:
            yield opened
        finally:
            opened.close()

    return session
