"""A run shows its stages: one op an asset, in order, each with what was done about its asset and where."""

import dagster as dg
import pytest

from influence_assets.assets import asset_graph
from influence_assets.orchestration.runs import job_name
from influence_assets.orchestration.session import Session
from tests import studies
from tests.studies import COAST, EXTRA, TRADES
from tests.tiers import slow_but

ASSETS = [asset.name for asset in asset_graph() if studies.is_due(asset)]
AGAIN = [f"new_generation.{name}" for name in ASSETS[ASSETS.index("eigenbases") :]]


def steps(located, event_type):
    """The steps of the last run with an event of a type, in order."""
    (run,) = located.instance.get_runs(limit=1)
    return [entry.step_key for entry in located.instance.all_logs(run.run_id, of_type=event_type)]


def figures(located):
    """What each stage of the last run says that it computed, by step."""
    (run,) = located.instance.get_runs(limit=1)
    outputs = located.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_OUTPUT)
    found = {}
    for entry in outputs:
        metadata = entry.dagster_event.step_output_data.metadata
        if metadata:
            found[entry.step_key] = {name: value.value for name, value in metadata.items()}
    return found


def messages(located, step):
    """What the last run's log says of a step, beside Dagster's own events."""
    (run,) = located.instance.get_runs(limit=1)
    entries = located.instance.all_logs(run.run_id)
    return [entry.user_message for entry in entries if entry.step_key == step and entry.dagster_event is None]


def test_a_run_has_one_stage_an_asset_in_the_graphs_order(located):
    assert not located.command().failures
    assert steps(located, dg.DagsterEventType.STEP_SUCCESS) == ["plan", *ASSETS, "report"]
    assert steps(located, dg.DagsterEventType.STEP_SKIPPED) == AGAIN, "no generation was due"
    by_stage = figures(located)
    assert by_stage["plan"].keys() == set(ASSETS)
    assert by_stage["documents"] == {"outcome": "Computed 2 partitions.", "computed": 2}
    # Scores come from the sketches' pass, and both stages say so.
    assert by_stage["gradient_sketches"]["outcome"] == (
        "Computed 2 partitions. Beside it: influence_scores 4, method_scores 4."
    )
    assert by_stage["influence_scores"] == {
        "outcome": "4 partitions: by the stage gradient_sketches, together.",
        "computed_by_other_stages": 4,
    }
    assert sum(counts.get("computed", 0) for counts in by_stage.values()) == len(studies.everything()) - 4 - 4


@pytest.mark.slow
def test_a_file_that_comes_is_measured_in_the_stage_of_the_first_that_is_due(computed):
    studies.write_extra(computed.path)
    assert not computed.command().failures
    by_stage = figures(computed)
    assert by_stage["drift_statistics"]["computed"] == 1
    assert by_stage["gradient_sketches"]["outcome"] == "1 partition: by the stage drift_statistics, together."
    assert by_stage["eigenbases"] == {"outcome": "Nothing was due."}


@pytest.mark.soak
def test_a_new_generation_has_stages_of_its_own(computed):
    assert not computed.command(new_generation=True).failures
    assert steps(computed, dg.DagsterEventType.STEP_SUCCESS) == ["plan", *ASSETS, *AGAIN, "report"]
    by_stage = figures(computed)
    assert by_stage["new_generation.eigenbases"]["computed"] == 1
    assert by_stage["eigenbases"] == {"outcome": "Nothing was due."}


def test_a_failure_is_shown_where_it_happened_and_stops_nothing_else(located):
    (located.path.parent / "corpus" / TRADES).write_bytes(b"no Parquet")
    assert located.command().failures
    assert steps(located, dg.DagsterEventType.STEP_FAILURE) == ["report"]
    assert steps(located, dg.DagsterEventType.STEP_SUCCESS) == ["plan", *ASSETS], "later stages still run"
    by_stage = figures(located)
    assert by_stage["documents"] == {
        "outcome": "Computed 1 partition. 1 partition failed.",
        "computed": 1,
        "failed": 1,
    }
    assert any(f"documents[{TRADES}] failed: " in message for message in messages(located, "documents"))
    waiting = "1 partition left out: something that they need failed."
    assert by_stage["token_sequences"]["outcome"] == f"Computed 1 partition. {waiting}"
    assert by_stage["eigenbases"]["outcome"] == waiting


@pytest.mark.slow
def test_damage_is_mended_within_the_stage_that_meets_it(computed):
    """The work goes back to earlier stages, the run does not."""
    studies.write_extra(computed.path)
    damaged = studies.artifact(computed.path, "token_sequences", shard=COAST)
    (file,) = damaged.folder.rglob("sequences.parquet")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    result = computed.command()
    assert not result.failures
    assert len(result.repaired) == 1
    assert steps(computed, dg.DagsterEventType.STEP_SUCCESS) == ["plan", *ASSETS, "report"]
    (stage,) = {step for step in ASSETS if any("is damaged." in message for message in messages(computed, step))}
    assert ASSETS.index(stage) > ASSETS.index("token_sequences")
    assert "token_sequences 1" in figures(computed)[stage]["outcome"].partition("Beside it: ")[2]
    assert studies.compute(computed.path) == []


@pytest.mark.slow
@pytest.mark.parametrize("chosen", slow_but(["report"], of=[["covariances"], ["report"]], slow=()))
def test_some_ops_alone_do_all_work_up_to_theirs(located, chosen):
    """As launched by hand, or again from where a run failed."""
    run = located.bring_up(op_selection=chosen)
    assert run.success
    computed = set(studies.everything()) - set(studies.compute(located.path))
    last = ASSETS.index(chosen[0]) if chosen[0] in ASSETS else len(ASSETS)
    assert {label.partition("[")[0] for label in computed} == set(ASSETS[: last + 1])


@pytest.mark.slow
def test_the_run_of_the_command_belongs_to_the_code_location(located):
    """So that the UI's timeline and the job's page show it."""
    located.command()
    (run,) = located.instance.get_runs()
    repository = run.remote_job_origin.repository_origin
    assert (repository.code_location_origin.location_name, repository.repository_name) == (
        "influence_assets",
        "__repository__",
    )
    assert run.job_name == job_name(located.study)


def test_a_run_that_ends_before_its_time_lets_go_of_the_store(computed):
    studies.write_extra(computed.path)
    computed.command(killed_before="token_sequences")
    with Session(computed.study).published.workspace.store.exclusive_lock():
        pass  # raises if the run still holds it
    assert f"documents[{EXTRA}]" not in studies.compute(computed.path)
