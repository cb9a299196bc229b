"""The same results from processes of their own, two runs at a time, as from one process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from influence_assets.assets import open_workspace
from influence_assets.orchestration.instance import open_instance
from influence_assets.orchestration.partitions import Partitions
from influence_assets.study import Study
from tests import studies
from tests.closeness import assert_same_scores, assert_same_values, values_of
from tests.commanding import finished
from tests.studies import SHARDS

ASSETS = ["documents", "token_sequences", "drift_statistics", "gradient_sketches"]
"""All of one shard, so that one run computes them; the last two could run at once, were they not heavy."""


def wherever_it_lies(artifact):
    """The values of an artifact but for the folder of its study."""
    values = values_of(artifact)
    return {name: held.drop("path") if name == "shards.parquet" else held for name, held in values.items()}


@pytest.mark.soak
def test_two_processes_at_a_time_compute_what_one_computes(standing, tmp_path):
    """Each shard in a run of `dagster asset materialize`, with a process for each step; both runs side by side."""
    study = studies.copied(standing, tmp_path)
    store = tmp_path / "store"
    for folder in store.iterdir():
        if folder.is_dir() and folder.name not in ("language_model", "eigenbases", "curvature"):
            shutil.rmtree(folder)
    (store / "influence.duckdb").unlink()
    loaded = Study.load(study)
    with open_instance(loaded) as instance:
        assert Partitions.of(loaded).register(open_workspace(loaded), instance) == 4
    runs = [materialising(study, shard) for shard in SHARDS]
    for run in runs:
        ended = finished(run)
        assert ended.code == 0, ended.out[-4000:]
    with open_instance(loaded) as instance:
        processes = {run: step_processes(instance, run) for run in instance.get_run_ids()}
    assert len(processes) == 2
    for found in processes.values():
        assert found.keys() == set(ASSETS)
        assert len(set(found.values())) == len(ASSETS), "a process for each step"
    for asset in ASSETS:
        for shard in SHARDS:
            one, other = (studies.artifact(path, asset, shard=shard) for path in (standing, study))
            assert one.key == other.key
            assert_same_values(wherever_it_lies(other), wherever_it_lies(one))
    assert not {name.partition("[")[0] for name in studies.compute(study)} & set(ASSETS)
    assert_same_scores(studies.scores(study), studies.scores(standing))


def materialising(study: Path, shard: str) -> "subprocess.Popen[str]":
    selection = " or ".join(f'key:"{studies.NAME}/{asset}"' for asset in ASSETS)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "influence_assets.orchestration.location"]
    environment = {
        "INFLUENCE_STUDY": str(study),
        "DAGSTER_HOME": str(study.parent / "store" / ".dagster"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        [*command, "--select", selection, "--partition", shard],
        cwd=study.parent,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def step_processes(instance: dg.DagsterInstance, run_id: str) -> dict[str, int]:
    """The process of each step of a run."""
    found = {}
    for record in instance.all_logs(run_id):
        event = record.dagster_event
        if event is not None and event.event_type_value == "STEP_WORKER_STARTED":
            pid = event.engine_event_data.metadata["pid"].value
            found[record.step_key.removeprefix(f"{studies.NAME}__")] = int(pid)
    return found
