"""Every job by hand, partition after partition, as from the UI: what Dagster is told of each materialization."""

import base64

import dagster as dg
import pytest

from influence_assets.assets.bring_up_to_date import Watcher, bring_up_to_date
from influence_assets.assets.jobs import JOBS
from influence_assets.pipeline.graph import BY_NAME, STEPS
from influence_assets.pipeline.steps import Partition
from influence_assets.study import Study
from tests import studies
from tests.studies import COAST, FIRST, QUERY_SETS, SHARDS, TRADES

SHOWN = {
    "documents": {"documents", "duplicate_documents", "characters", "source_bytes", "first_documents"},
    "language_model": {"weights_hash", "tokenizer_hash", "architecture", "parameters", "context_tokens"},
    "token_sequences": {"sequences", "tokens", "predicted_tokens", "first_sequences"},
    "covariances": {"fitted_sequences", "counted_tokens", "training_sequences"},
    "eigenbases": {"generation_id", "training_sequences", "counted_tokens", "attributed_parameters"},
    "corrected_eigenvalues": {"counted_sequences"},
    "curvature": {"generation_id", "attributed_share", "spectra", "layers"},
    "query_gradients": {"queries", "generation_id", "first_queries"},
    "gradient_sketches": {"sequences", "agreement", "expected_energy"},
    "influence_scores": {"scores", "largest_nats", "smallest_nats", "positive_share", "distribution", "strongest"},
    "influence_details": {"split_scores", "sketch_agreement"},
    "influence_catalogue": {"loaded_artifacts", "catalogue_bytes", "inserted"},
}
ALWAYS = {"outcome", "seconds", "bytes", "peak_memory_bytes", "path"}
PLOTS = {"curvature": "spectra", "influence_scores": "distribution"}


def partitions(job):
    """The partition keys of a job, as a person would launch them one by one."""
    step = BY_NAME[JOBS[job][0][0]]
    return {
        "none": [None],
        "shard": list(SHARDS),
        "query_set": list(QUERY_SETS),
        "pair": [Partition(shard, query_set).key for query_set in QUERY_SETS for shard in SHARDS],
    }[step.partitioning]


@pytest.fixture
def runs(located):
    """Every job of every partition, in order."""
    located.sense()
    return [located.run(job, partition) for job in JOBS for partition in partitions(job)]


def test_every_job_by_hand_ends_in_scores_and_says_what_it_did(located, runs):
    assert all(run.success for run in runs)
    checks = [check for run in runs for check in run.get_asset_check_evaluations()]
    assert {check.asset_key.path[-1] for check in checks} > {"covariances", "influence_scores", "influence_catalogue"}
    assert [check for check in checks if not check.passed] == []
    versions = studies.data_versions(located.path)
    told = {}
    for run in runs:
        for event in run.get_asset_materialization_events():
            materialization = event.materialization
            step = BY_NAME[materialization.asset_key.path[-1]]
            assert materialization.metadata.keys() >= SHOWN[step.name] | ALWAYS, step.name
            assert materialization.metadata["outcome"].value == "computed"
            where = Partition.parse(step.partitioning, event.partition)
            told[studies.label(step, where)] = materialization.tags["dagster/data_version"]
            folder = studies.artifact(located.path, step.name, **named(where)).folder
            shown = folder.parents[2] / "influence.duckdb" if step.name == "influence_catalogue" else folder
            assert materialization.metadata["path"].value == str(shown)
            if step.name in PLOTS:
                assert_is_png(materialization.metadata[PLOTS[step.name]])
    assert told == versions
    assert set(told) == studies.everything()
    assert studies.compute(located.path) == []

    # Once more by hand: nothing is done, and that is said.
    again = located.run("read_documents", COAST)
    (event,) = again.get_asset_materialization_events()
    assert event.materialization.metadata["outcome"].value == "stood already: nothing was done"
    assert event.materialization.tags["dagster/data_version"] == versions[f"documents[{COAST}]"]

    # From the launchpad: another generation, in which all that follows is then computed by hand.
    config = {"ops": {f"{studies.NAME}__eigenbases": {"config": {"new_generation": True}}}}
    assert located.run("fit_generation", run_config=config).success
    names = list(JOBS)
    for job in names[names.index("fit_generation") + 1 :]:
        for partition in partitions(job):
            assert located.run(job, partition).success, (job, partition)
    generations = studies.ask_sql(located.path, "select generation_id, is_current from generations").rows()
    assert generations == [(2, True)]
    assert studies.compute(located.path) == []


def named(partition):
    return {name: value for name, value in vars(partition).items() if value is not None}


def assert_is_png(metadata):
    before, _, encoded = metadata.value.partition("base64,")
    assert before.startswith("![")
    assert base64.b64decode(encoded.removesuffix(")"))[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_step_without_its_inputs_fails_and_names_them(located):
    located.sense()
    run = located.run("fit_generation", raise_on_error=False)
    assert not run.success
    (failure,) = [event for event in run.all_events if event.is_step_failure]
    assert "eigenbases needs covariances[letters/coast.jsonl]" in failure.step_failure_data.error.cause.message


def test_bring_up_to_date_records_its_runs_and_leaves_out_what_a_failure_stops(tmp_path):
    path = studies.lay_out(tmp_path)
    (tmp_path / "corpus" / TRADES).write_bytes(b"no Parquet")
    told, progress = [], []
    watcher = Watcher(lambda *said: told.append(said), lambda step, *said: progress.append((step.name, *said)))
    study = Study.load(path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = bring_up_to_date(study, instance, watcher)
        (failure,) = result.failures
        assert (failure.job, failure.partition) == ("read_documents", TRADES)
        assert f"{TRADES}, after row 0: cannot be read as Parquet" in str(failure.error)
        computed = {studies.label(*done) for done in result.computed}
        # The generation is fitted on all shards: without this one there is none yet.
        by_shard = {f"{step}[{COAST}]" for step in ("documents", "token_sequences", "covariances")}
        assert computed == by_shard | {"language_model"}

        studies.write_parquet(tmp_path / "corpus" / TRADES, studies.TRADES_ROWS)
        result = bring_up_to_date(study, instance, watcher)
        assert not result.failures
        assert not result.checks_failed
        assert {studies.label(*done) for done in result.computed} == studies.everything() - computed
        assert result.stood == {"documents": 1, "language_model": 1, "token_sequences": 1, "covariances": 1}
        runs = len(instance.get_run_ids())
        result = bring_up_to_date(study, instance, watcher)
        assert not result.computed
        assert sum(result.stood.values()) == len(studies.everything())
        assert len(instance.get_run_ids()) == runs, "nothing to do is no run"
        latest = instance.get_latest_materialization_event(dg.AssetKey([studies.NAME, "influence_scores"]))
    lineage = studies.ask_sql(path, "select distinct run_id from score_lineage")["run_id"].to_list()
    assert latest.run_id in lineage
    assert ("score_shard", f"{FIRST}|{COAST}", 1) in told
    sequences = studies.artifact(path, "token_sequences", shard=COAST).manifest.summary["sequences"]
    assert ("covariances", Partition(shard=COAST), sequences, sequences) in progress
    assert {step.name for step in STEPS if step.heavy and step.name != "language_model"} <= {p[0] for p in progress}


def test_a_check_that_fails_is_told(located, standing):
    """Were scores ever wrong under the right version, the check of what stands would say so to whoever looks."""
    studies.copied(standing, located.path.parent)
    scores = studies.artifact(located.path, "influence_scores", shard=COAST, query_set=FIRST)
    shorter = scores.table("influence_scores").collect().head(3)
    studies.rewrite(
        located.path, "influence_scores", tables={"influence_scores": shorter}, shard=COAST, query_set=FIRST
    )
    located.sense()
    run = located.run("score_shard", f"{FIRST}|{COAST}")
    (check,) = run.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("every_sequence_is_scored", False)
    assert check.metadata["scores"].value == 3
    assert check.metadata["expected"].value == 2 * 10
    assert run.success, "what stands is left alone: the check tells a person to look"

    # The catalogue that is made of it is checked by SQL, and the rows that are wrong are shown.
    studies.versions_of(located.path).workspace.catalogue.unlink()
    with dg.DagsterInstance.ephemeral() as instance:
        result = bring_up_to_date(Study.load(located.path), instance, Watcher(lambda *_: None, lambda *_: None))
    assert "influence_catalogue: every_sequence_scored" in result.checks_failed
    run = located.run("publish_catalogue")
    found = {check.check_name: check for check in run.get_asset_check_evaluations() if not check.passed}
    violations = found["every_sequence_scored"].metadata
    assert violations["count"].value == len(violations["violations"].records) > 0
