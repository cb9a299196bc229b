"""A laid-out study with nothing computed, and its definitions."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from influence_assets.assets.definitions import build_definitions
from influence_assets.study import Study
from tests import studies


@dataclass
class Located:
    """A study as Dagster has it.

    Args:
        path: the study file.
        definitions: of a code location with this study alone.
        instance: with the partitions that were registered, and the runs.
    """

    path: Path
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def key(self, step: str) -> dg.AssetKey:
        return dg.AssetKey([studies.NAME, step])

    def sense(self) -> dg.SensorResult:
        """One tick of the sensor for new files, its requests carried out."""
        sensor = self.definitions.resolve_sensor_def(f"{studies.NAME}_new_files")
        context = dg.build_sensor_context(instance=self.instance, definitions=self.definitions)
        tick = sensor.evaluate_tick(context)
        for request in tick.dynamic_partitions_requests:
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return tick

    def run(self, job: str, partition: str | None = None, **arguments) -> dg.ExecuteInProcessResult:
        """One run of a job, in this process, each with a fresh look at the files."""
        found = self.definitions.resolve_job_def(f"{studies.NAME}_{job}")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        config = quiet | arguments.pop("run_config", {})
        return found.execute_in_process(instance=self.instance, partition_key=partition, run_config=config, **arguments)


@pytest.fixture
def located(tmp_path):
    path = studies.lay_out(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Located(path, build_definitions([Study.load(path)]), instance)
