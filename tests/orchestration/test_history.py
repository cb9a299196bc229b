"""The history of runs that is kept in a store: it does not grow with every run, and the assets keep theirs."""

import dagster as dg
import pytest

from influence_assets.orchestration.history import prune_history
from influence_assets.orchestration.instance import home_in_store, open_instance
from influence_assets.study import Study
from tests import studies

MADE = dg.AssetKey("made")


@dg.asset(key=MADE)
def made() -> None:
    pass


@dg.op
def idle() -> None:
    pass


@dg.job(executor_def=dg.in_process_executor)
def resting() -> None:
    idle()


@pytest.fixture
def study(tmp_path):
    return Study.load(studies.write_study(tmp_path))


def run_both(instance):
    """A run that computes an asset, and one that computes nothing."""
    computed = dg.materialize([made], instance=instance)
    rested = resting.execute_in_process(instance=instance)
    return computed.run_id, rested.run_id


def log(study, run_id):
    return home_in_store(study) / "history" / "runs" / f"{run_id}.db"


def test_old_logs_go_and_what_the_assets_know_stays(study):
    with open_instance(study) as instance:
        runs = [run_both(instance) for _ in range(3)]
    pruned = prune_history(study, keep=2)
    assert (pruned.logs, pruned.runs) == (2, 2)
    assert pruned.bytes > 100_000
    with open_instance(study) as instance:
        kept = {run.run_id for run in instance.get_runs()}
        assert kept == {runs[0][0], runs[1][0], *runs[2]}  # what computed an asset stays in the list
        made_by = [record.run_id for record in instance.fetch_materializations(MADE, limit=10).records]
        assert made_by == [runs[2][0], runs[1][0], runs[0][0]]
        assert instance.get_latest_materialization_event(MADE).run_id == runs[2][0]
        assert instance.all_logs(runs[2][0])
    assert [log(study, run).exists() for pair in runs for run in pair] == [False] * 4 + [True] * 2
    again = prune_history(study, keep=2)
    assert (again.logs, again.runs, again.bytes) == (0, 0, 0)


def test_a_run_at_work_keeps_its_log(study):
    with open_instance(study) as instance:
        run_id = resting.execute_in_process(instance=instance).run_id
        at_work = instance.create_run_for_job(resting, status=dg.DagsterRunStatus.STARTED)
        instance.report_engine_event("at work", at_work)
    prune_history(study, keep=0)
    assert log(study, at_work.run_id).exists()
    assert not log(study, run_id).exists()


def test_an_instance_of_ones_own_is_left_alone(study, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "own"))
    with open_instance(study) as instance:
        run_both(instance)
    assert prune_history(study, keep=0).bytes == 0
    assert len(list((tmp_path / "own" / "history" / "runs").glob("*.db"))) >= 2
