"""Further members of an ensemble in Dagster: one stage for all of them, and no events of their own."""

import dagster as dg
import pytest

from influence_assets.orchestration.runs import job_name
from tests import studies

OF_MEMBER = 1 + 4 + 2 + 4
"""The model, the curvature's four, two query sets and four pairs."""


@pytest.fixture
def ensemble(computed):
    """A computed study, of whose ensemble two members are still to come."""
    for seed in (1, 2):
        studies.write_model(computed.path.parent / f"model_{seed}", seed=seed)
    studies.write_study(computed.path.parent, model={"members": ["model_1", "model_2"]})
    return computed


def figures(located, step):
    (run,) = located.instance.get_runs(limit=1)
    outputs = located.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_OUTPUT)
    (metadata,) = (e.dagster_event.step_output_data.metadata for e in outputs if e.step_key == step)
    return {name: value.value for name, value in metadata.items()}


def materializations(located, asset):
    return len(located.instance.fetch_materializations(located.key(asset), limit=100).records)


def test_members_have_one_stage_that_says_what_it_computed(ensemble):
    before = {asset.name: materializations(ensemble, asset.name) for asset in studies.asset_graph()}
    result = ensemble.command()
    assert not result.failures
    assert {number: len(places) for number, places in result.of_members.items()} == {1: OF_MEMBER, 2: OF_MEMBER}
    found = figures(ensemble, "members")
    assert found["outcome"] == f"Computed {2 * OF_MEMBER} partitions. Beside it: influence_catalogue 1."
    assert found["computed"] == 2 * OF_MEMBER
    counts = dict(part.rsplit(" ", 1) for part in found["member_1"].split(", "))
    assert (counts["language_model"], counts["influence_scores"]) == ("1", "4")
    assert found["member_1"] == found["member_2"]
    after = {asset.name: materializations(ensemble, asset.name) for asset in studies.asset_graph()}
    assert after == before | {"influence_catalogue": before["influence_catalogue"] + 1}
    assert ensemble.command().computed == []


@pytest.mark.slow
def test_a_failing_member_fails_the_run_and_nothing_else(ensemble):
    folder = ensemble.path.parent / "model_1"
    studies.write_model(folder, seed=0)
    result = ensemble.command()
    assert [(failure.asset.name, failure.member) for failure in result.failures] == [("language_model", 1)]
    assert len(result.of_members[2]) == OF_MEMBER
    assert "influence_scores of member 1" in result.left_out
    assert studies.ask_sql(ensemble.path, "select distinct members from ensemble_scores").rows() == [(2,)]
    found = figures(ensemble, "members")
    assert f"Computed {OF_MEMBER} partitions. " in found["outcome"]
    assert "1 partition failed. 10 partitions left out: something that they need failed." in found["outcome"]


@pytest.mark.slow
def test_the_sensor_asks_for_a_run_when_a_member_changes(ensemble):
    further = {"members": ["model_1", "model_2"]}
    studies.write_study(ensemble.path.parent, model=further, automation={"enabled": True})
    assert not ensemble.command().failures
    assert ensemble.sense().run_requests == []
    studies.write_model(ensemble.path.parent / "model_2", seed=3)
    assert len(ensemble.sense().run_requests) == 1
    (run,) = ensemble.carry_out()
    assert run.success
    assert studies.ask_sql(ensemble.path, "select distinct members from ensemble_scores").rows() == [(3,)]
    assert ensemble.sense().run_requests == []


def test_without_members_there_is_no_such_stage(computed):
    job = computed.definitions.resolve_job_def(job_name(computed.study))
    assert "members" not in {node.name for node in job.graph.nodes}
