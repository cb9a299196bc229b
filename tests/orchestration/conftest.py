"""A laid-out study, its definitions as Dagster has them, and what Dagster's daemon does with its sensor."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from influence_assets.assets import asset_graph
from influence_assets.engine.bring_up import Result
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.orchestration.bring_up import execute
from influence_assets.orchestration.definitions import build_definitions
from influence_assets.orchestration.jobs import asset_job_name
from influence_assets.orchestration.runs import job_name
from influence_assets.orchestration.session import Session
from influence_assets.study import Study
from tests import studies

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class KilledError(KeyboardInterrupt):
    """In the place of the signal that would end the process."""


class Killed:
    """A watcher that ends a run.

    Args:
        asset: before this asset begins.
    """

    def __init__(self, asset: str) -> None:
        self._asset = asset

    def begins(self, asset: AssetDefinition, _partition: Partition, _outstanding: int) -> None:
        if asset.name == self._asset:
            raise KilledError

    def progress(self, asset: AssetDefinition, partition: Partition, done: int, total: int | None) -> None:
        pass


@dataclass
class Located:
    """A study as Dagster has it.

    Args:
        path: the study file.
        instance: with the partitions that were registered, and the runs.
        requested: runs that the sensor asked for and that were not carried out yet.
    """

    path: Path
    instance: dg.DagsterInstance
    requested: list[dg.RunRequest] = field(default_factory=list)
    _cursor: str | None = None

    @property
    def study(self) -> Study:
        """As its file describes it now."""
        return Study.load(self.path)

    @property
    def definitions(self) -> dg.Definitions:
        """Of a code location with this study alone, loaded afresh."""
        return build_definitions([self.study])

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([studies.NAME, asset])

    def sense(self):
        """One tick of the sensor, with all that the daemon does of it but to start the runs that it requests."""
        definitions = self.definitions
        sensor = definitions.resolve_sensor_def(f"{studies.NAME}_files")
        context = dg.build_sensor_context(instance=self.instance, cursor=self._cursor, definitions=definitions)
        tick = sensor.evaluate_tick(context)
        for request in tick.dynamic_partitions_requests:
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        for event in tick.asset_events:
            self.instance.report_runless_asset_event(event)
        self._cursor = tick.cursor
        self.requested += tick.run_requests
        return tick

    def carry_out(self) -> list[dg.ExecuteInProcessResult]:
        """The runs that the sensor requested, in this process."""
        requested, self.requested = self.requested, []
        return [
            self.definitions.resolve_job_def(request.job_name or job_name(self.study)).execute_in_process(
                instance=self.instance, run_config=QUIET, tags=request.tags, raise_on_error=False
            )
            for request in requested
        ]

    def command(self, *, new_generation: bool = False, killed_before: str | None = None) -> Result:
        """What `influence run` does, where it is killed before an asset begins."""
        session = Session(self.study, None if killed_before is None else Killed(killed_before))
        with contextlib.suppress(KilledError):
            execute(self.study, self.instance, session, new_generation=new_generation)
        return session.result

    def bring_up(self, **arguments) -> dg.ExecuteInProcessResult:
        """One run of the job that brings everything up to date, as from the launchpad."""
        job = self.definitions.resolve_job_def(job_name(self.study))
        config = QUIET | arguments.pop("run_config", {})
        return job.execute_in_process(instance=self.instance, run_config=config, **arguments)

    def materialise(self, asset: str, partition: str | None = None, **arguments) -> dg.ExecuteInProcessResult:
        """One asset alone, by the job of its kind of partition, with a fresh look at the files."""
        job = self.definitions.resolve_job_def(asset_job_name(self.study, asset_graph()[asset].partitioned_by))
        config = QUIET | arguments.pop("run_config", {})
        return job.execute_in_process(
            instance=self.instance,
            partition_key=partition,
            asset_selection=[self.key(asset)],
            run_config=config,
            **arguments,
        )


@pytest.fixture
def located(tmp_path):
    """A study with nothing computed."""
    path = studies.lay_out(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Located(path, instance)


@pytest.fixture
def computed(standing, tmp_path):
    """A study that stands, of which Dagster knows."""
    with dg.DagsterInstance.ephemeral() as instance:
        found = Located(studies.copied(standing, tmp_path), instance)
        assert found.command().computed == []
        yield found
