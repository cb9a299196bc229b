"""The sensor: files become partitions, what came of them is observed by content, and one run is asked for."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.observe import observe

from influence_assets.assets import open_workspace
from influence_assets.durable import locks
from influence_assets.engine.plan import plan
from influence_assets.orchestration.automation import ATTEMPTS
from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.runs import EARLIER_TAG, end_dead_runs, job_name
from influence_assets.orchestration.sources import SOURCES, build_sources
from tests import studies
from tests.studies import COAST, EXTRA, FIRST, QUERY_SETS, SHARDS, TRADES
from tests.tiers import slow_but


def keys(located, name):
    return located.instance.get_dynamic_partitions(f"{studies.NAME}_{name}")


def observed(tick):
    """What a tick observed of sources, as {source: {partition: version}}."""
    found = {}
    for event in tick.asset_events:
        if event.asset_key.path[-1] not in SOURCES:
            continue  # of a file that is gone, the assets' partitions say so too
        versions = found.setdefault(event.asset_key.path[-1], {})
        versions[event.partition] = event.tags["dagster/data_version"]
    return found


def outstanding(located):
    return [state.asset.name for state in plan(studies.versions_of(located.path)) if state.outstanding]


@pytest.fixture
def automatic(computed):
    """A study that stands and keeps itself up to date."""
    studies.write_study(computed.path.parent, automation={"enabled": True})
    tick = computed.sense()
    assert tick.skip_message == "Everything is up to date."
    assert computed.sense().skip_message.startswith("Nothing changed in ")
    return computed


def test_source_and_query_files_become_partitions_once(located):
    assert located.sense().dynamic_partitions_requests
    assert keys(located, "shards") == list(SHARDS)
    assert keys(located, "query_sets") == list(QUERY_SETS)
    assert not located.sense().dynamic_partitions_requests


def test_new_files_are_added_to_those_there_are(located):
    located.sense()
    studies.write_extra(located.path)
    studies.write_jsonl(located.path.parent / "queries" / "third.jsonl", studies.SECOND_ROWS)
    (located.path.parent / "corpus" / "notes.docx").write_bytes(b"no corpus file")
    tick = located.sense()
    added = {request.partitions_def_name: request.partition_keys for request in tick.dynamic_partitions_requests}
    assert added == {"tiny_shards": [EXTRA], "tiny_query_sets": ["third.jsonl"]}


def test_the_keys_of_vanished_files_stay(located):
    """Deleting a dynamic key breaks what Dagster shows of the partitions that it had."""
    located.sense()
    (located.path.parent / "corpus" / TRADES).unlink()
    assert not located.sense().dynamic_partitions_requests
    assert keys(located, "shards") == list(SHARDS)


def test_a_broken_folder_skips_the_tick_and_says_why(located):
    (located.path.parent / "corpus" / "a|b.txt").write_text("text")
    tick = located.sense()
    assert not tick.dynamic_partitions_requests
    assert "'a|b.txt': the name contains '|'. Rename the file" in tick.skip_message
    (located.path.parent / "corpus").rename(located.path.parent / "elsewhere")
    assert "corpus: no such folder. Set corpus.path" in located.sense().skip_message


def test_a_file_in_the_place_of_a_folder_skips_the_tick_and_nothing_is_reported_as_gone(located):
    located.sense()
    folder = located.path.parent / "corpus" / Path(COAST).parent
    folder.rename(located.path.parent / "elsewhere")
    folder.write_text("no folder")
    tick = located.sense()
    assert f"{folder}: is not a folder, though {COAST} was in it" in tick.skip_message
    assert not tick.asset_events
    folder.unlink()
    (located.path.parent / "elsewhere").rename(folder)
    assert not located.sense().asset_events


def test_files_are_observed_when_their_content_is_new(located):
    first = observed(located.sense())
    assert {name: set(versions) for name, versions in first.items()} == {
        "source_files": set(SHARDS), "query_files": set(QUERY_SETS), "corpus": {None}, "questions": {None},
        "model_files": {None},
    }  # fmt: skip
    assert observed(located.sense()) == {}

    path = located.path.parent / "corpus" / COAST
    before, content = path.stat(), path.read_bytes()
    os.utime(path, (0, 0))
    assert observed(located.sense()) == {}, "a time stamp is no content"
    # As long as before, and with the time stamp of before.
    path.write_bytes(content.replace(b"keeper", b"warden"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = observed(located.sense())
    assert {name: set(versions) for name, versions in changed.items()} == {"source_files": {COAST}, "corpus": {None}}
    assert changed["source_files"][COAST] != first["source_files"][COAST]
    path.write_bytes(content)
    back = observed(located.sense())
    assert back == {"source_files": {COAST: first["source_files"][COAST]}, "corpus": first["corpus"]}
    path.unlink()
    gone = observed(located.sense())
    assert gone["source_files"] == {COAST: "gone"}
    assert gone["corpus"] != first["corpus"]
    assert observed(located.sense()) == {}


def test_a_person_can_observe_too(located):
    """By the UI's button; what the sensor has seen already it does not report again."""
    for source in build_sources(located.study):
        Partitions.of(located.study).register(open_workspace(located.study), located.instance)
        assert observe([source], instance=located.instance).success
    assert observed(located.sense()) == {}


def test_switched_off_it_registers_and_observes_alone(located):
    tick = located.sense()
    assert tick.asset_events
    assert not tick.run_requests
    assert tick.skip_message == "automation.enabled is false: new files are registered, nothing is computed."
    assert not located.instance.get_run_ids()


def assert_one_run_mends_it(located):
    """One run is asked for, and it leaves nothing to be done."""
    assert len(located.sense().run_requests) == 1
    (run,) = located.carry_out()
    assert run.success
    assert outstanding(located) == []
    for _ in range(2):
        tick = located.sense()
        assert not tick.run_requests
        assert tick.skip_message.startswith("Nothing changed in ")


@pytest.mark.soak
def test_a_fresh_study_is_one_run(located):
    studies.write_study(located.path.parent, automation={"enabled": True})
    assert_one_run_mends_it(located)
    assert len(located.instance.get_run_ids()) == 1


@pytest.mark.slow
def test_what_is_new_changed_or_gone_is_one_run_each(automatic):
    corpus = automatic.path.parent / "corpus"
    studies.write_extra(automatic.path)
    assert_one_run_mends_it(automatic)
    path = corpus / COAST
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"keeper", b"warden"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_one_run_mends_it(automatic)
    texts = studies.artifact(automatic.path, "documents", shard=COAST).table("documents").collect()["text"]
    assert ["warden" in text for text in texts] == [True, False, False, False]
    (corpus / TRADES).unlink()
    (automatic.path.parent / "queries" / FIRST).unlink()
    assert_one_run_mends_it(automatic)
    assert set(studies.ask_sql(automatic.path, "select shard_id from shards")["shard_id"]) == {COAST, EXTRA}
    studies.write_study(automatic.path.parent, automation={"enabled": True}, curvature={"damping_scale": 0.3})
    assert_one_run_mends_it(automatic)


def test_touched_files_are_no_run(automatic):
    for path in automatic.path.parent.rglob("*"):
        if path.is_file() and "store" not in path.parts:
            os.utime(path)
    assert not automatic.sense().run_requests


@pytest.mark.slow
@pytest.mark.parametrize(
    "status",
    slow_but(dg.DagsterRunStatus.STARTED, of=[dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED], slow=()),
)
def test_while_a_run_is_at_work_no_other_is_asked_for(automatic, status):
    studies.write_extra(automatic.path)
    run = dg.DagsterRun(job_name=job_name(automatic.study), status=status)
    automatic.instance.add_run(run)
    with locks.locked(run_lock(automatic, run)):
        tick = automatic.sense()
    assert not tick.run_requests
    assert tick.skip_message == "A run is at work."
    assert EXTRA in keys(automatic, "shards"), "it is registered all the same"
    automatic.instance.report_run_canceled(run)
    assert_one_run_mends_it(automatic)


@pytest.mark.slow
def test_a_run_whose_process_was_killed_does_not_count_as_being_at_work(automatic):
    run = dg.DagsterRun(job_name=job_name(automatic.study), status=dg.DagsterRunStatus.STARTED)
    holding = """
import sys, time
from pathlib import Path
from influence_assets.orchestration.runs import hold_run
from influence_assets.study import Study
hold_run(Study.load(Path(sys.argv[1])), sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", holding, str(automatic.path), run.run_id], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    automatic.instance.add_run(run)
    studies.write_extra(automatic.path)
    assert automatic.sense().skip_message == "A run is at work."
    process.kill()
    process.wait()
    assert_one_run_mends_it(automatic)
    assert automatic.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_run_that_an_earlier_release_left_behind_is_ended(automatic):
    """It named its process by a number, which may be another's by now."""
    tags = {EARLIER_TAG: f"{os.getpid()}@elsewhere"}
    run = dg.DagsterRun(job_name=job_name(automatic.study), status=dg.DagsterRunStatus.STARTED, tags=tags)
    automatic.instance.add_run(run)
    end_dead_runs(automatic.study, automatic.instance)
    assert automatic.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def run_lock(located, run):
    return located.path.parent / "store" / ".cache" / "runs" / f"{run.run_id}.lock"


@pytest.mark.soak
def test_every_run_holds_its_lock(located):
    """However it was started: only so can others know that it was killed."""
    assert located.bring_up().success
    located.command(new_generation=True)
    (last, _) = located.instance.get_runs()
    (lock,) = (located.path.parent / "store" / ".cache" / "runs").iterdir()
    assert lock == run_lock(located, last)
    assert locks.is_held(lock)


@pytest.mark.soak
def test_what_failed_is_left_alone_until_something_changes(automatic):
    bad = automatic.path.parent / "corpus" / "new.jsonl"
    bad.write_text("no rows\n", encoding="utf-8")
    assert len(automatic.sense().run_requests) == 1
    (run,) = automatic.carry_out()
    assert not run.success
    for _ in range(2):
        tick = automatic.sense()
        assert not tick.run_requests
        assert tick.skip_message.startswith("Nothing changed in ")
    # Something else that comes is computed as far as it goes, and the bad file tried once more.
    studies.write_extra(automatic.path)
    assert len(automatic.sense().run_requests) == 1
    (run,) = automatic.carry_out()
    assert not run.success
    assert studies.artifact(automatic.path, "influence_scores", shard=EXTRA, query_set=FIRST)
    assert not automatic.sense().run_requests
    studies.write_jsonl(bad, [{"text": "The tailor cuts the cloth."}])
    assert_one_run_mends_it(automatic)


@pytest.mark.soak
def test_after_a_run_that_died_another_is_asked_for_but_not_for_ever(automatic):
    studies.write_extra(automatic.path)
    for _ in range(ATTEMPTS):
        assert len(automatic.sense().run_requests) == 1
        automatic.requested.clear()  # it died before it did anything
    tick = automatic.sense()
    assert not tick.run_requests
    assert tick.skip_message.startswith(f"{ATTEMPTS} runs of these files died.")
    assert outstanding(automatic), "it is a person's turn"
    (automatic.path.parent / "corpus" / TRADES).unlink()
    assert_one_run_mends_it(automatic)


def test_a_run_by_hand_is_taken_note_of(automatic):
    """What the command has computed, or tried to, is not asked for again."""
    bad = automatic.path.parent / "corpus" / "new.jsonl"
    bad.write_text("no rows\n", encoding="utf-8")
    assert automatic.command().failures
    assert not automatic.sense().run_requests
