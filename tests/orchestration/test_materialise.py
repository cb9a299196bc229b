"""Every asset by hand, partition after partition, as from the UI: what each materialization reports to Dagster."""

import base64
import itertools

import dagster as dg
import pytest

from influence_assets.assets import asset_graph
from influence_assets.engine.partitions import Partition
from influence_assets.orchestration.bring_up import execute
from influence_assets.orchestration.session import Session
from tests import studies
from tests.studies import COAST, EXTRA, FIRST, QUERY_SETS, SHARDS, TRADES

SHOWN = {
    "documents": {"documents", "duplicate_documents", "characters", "source_bytes", "first_documents"},
    "language_model": {"weights_hash", "tokenizer_hash", "architecture", "parameters", "context_tokens"},
    "token_sequences": {"sequences", "tokens", "predicted_tokens"},
    "covariances": {"fitted_sequences", "counted_tokens", "training_sequences"},
    "eigenbases": {"generation_id", "training_sequences", "counted_tokens", "attributed_parameters"},
    "corrected_eigenvalues": {"fitted_sequences", "counted_tokens", "generation_id"},
    "drift_statistics": {"fitted"},
    "curvature": {"generation_id", "attributed_share", "spectra", "layers"},
    "curvature_drift": {"largest_drift", "largest_drift_layer", "threshold", "exceeds", "curvature_drift"},
    "query_gradients": {"queries", "generation_id", "first_queries"},
    "gradient_sketches": {"sequences", "agreement", "expected_energy"},
    "influence_scores": {"scores", "largest_nats", "smallest_nats", "positive_share", "strongest"},
    "method_scores": {"scores", "queries", "methods", "ranges"},
    "influence_details": {"split_scores", "sketch_agreement"},
    "influence_catalogue": {"loaded_artifacts", "catalogue_bytes", "inserted", "score_distribution"},
}
ALWAYS = {"outcome", "seconds", "peak_memory_bytes", "path"}
OPAQUE = {"rotated", "layers", "shapes", "config", "identity", "withdrawn", "fitted_shards", "inserted_rows"}
"""Of a manifest's summary, what says nothing to a person."""
PLOTS = {
    "curvature": ["spectra"],
    "curvature_drift": ["curvature_drift"],
    "influence_catalogue": ["score_distribution"],
}


def partitions(asset):
    """The partition keys of an asset, as a person would launch them one by one; none of what is for another day."""
    if not studies.is_due(asset):
        return []
    return {
        "none": [None],
        "shard": list(SHARDS),
        "query_set": list(QUERY_SETS),
        "pair": [Partition(shard, query_set).key for query_set in QUERY_SETS for shard in SHARDS],
    }[asset.partitioned_by]


@pytest.fixture
def runs(located):
    """Every partition of every asset, in order."""
    located.sense()
    return [located.materialise(asset.name, partition) for asset in asset_graph() for partition in partitions(asset)]


@pytest.mark.slow
def test_every_asset_by_hand_ends_in_scores_and_says_what_it_did(located, runs):
    assert all(run.success for run in runs)
    checks = [check for run in runs for check in run.get_asset_check_evaluations()]
    assert {check.asset_key.path[-1] for check in checks} > {"eigenbases", "influence_scores", "influence_catalogue"}
    assert [check for check in checks if not check.passed] == []
    versions = studies.data_versions(located.path)
    reported = {}
    for run in runs:
        for event in run.get_asset_materialization_events():
            materialization = event.materialization
            asset = asset_graph()[materialization.asset_key.path[-1]]
            assert materialization.metadata.keys() >= SHOWN[asset.name] | ALWAYS, asset.name
            assert materialization.metadata["outcome"].value.startswith("computed in ")
            hidden = OPAQUE - SHOWN[asset.name]
            assert not materialization.metadata.keys() & hidden, asset.name
            assert all(value.value != 0 for name, value in materialization.metadata.items() if name == "bytes")
            where = Partition.parse(asset.partitioned_by, event.partition)
            reported[studies.label(asset, where)] = materialization.tags["dagster/data_version"]
            versions_now = studies.versions_of(located.path)
            folder = versions_now.workspace.store.place(versions_now.key(asset, where))
            shown = folder.parents[2] / "influence.duckdb" if asset.is_catalogue else folder
            assert materialization.metadata["path"].value == str(shown)
            for plot in PLOTS.get(asset.name, []):
                assert_is_png(materialization.metadata[plot])
    assert reported == versions
    assert set(reported) == studies.everything()
    assert studies.compute(located.path) == []

    # Once more by hand: nothing is done, and the page says so.
    again = located.materialise("documents", COAST)
    (event,) = again.get_asset_materialization_events()
    assert event.materialization.metadata["outcome"].value == "was up to date: nothing was done"
    assert event.materialization.tags["dagster/data_version"] == versions[f"documents[{COAST}]"]

    # From the launchpad: another generation, in which all that follows is then computed by hand.
    config = {"ops": {f"{studies.NAME}__eigenbases": {"config": {"new_generation": True}}}}
    assert located.materialise("eigenbases", run_config=config).success
    later = itertools.dropwhile(lambda asset: not asset.begins_generation, asset_graph())
    for asset in itertools.islice(later, 1, None):
        for partition in partitions(asset):
            assert located.materialise(asset.name, partition).success, (asset.name, partition)
    generations = studies.ask_sql(located.path, "select generation_id, is_current from generations order by all").rows()
    assert generations == [(1, False), (2, True)], "the one before stands beside it, to be compared"
    assert studies.compute(located.path) == []


def named(partition):
    return {name: value for name, value in vars(partition).items() if value is not None}


def assert_is_png(metadata):
    before, _, encoded = metadata.value.partition("base64,")
    assert before.startswith("![")
    assert base64.b64decode(encoded.removesuffix(")"))[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_step_without_its_inputs_fails_and_names_them(located):
    located.sense()
    run = located.materialise("eigenbases", raise_on_error=False)
    assert not run.success
    (failure,) = [event for event in run.all_events if event.is_step_failure]
    assert "eigenbases needs covariances, which" in failure.step_failure_data.error.cause.message


class Listener:
    """Who watches a run."""

    def __init__(self):
        self.begun, self.noted = [], []

    def begins(self, asset, partition, outstanding):
        self.begun.append((studies.label(asset, partition), outstanding))

    def progress(self, asset, partition, done, total):
        self.noted.append((studies.label(asset, partition), done, total))


def bring_up(located, listener):
    session = Session(located.study, listener)
    execute(located.study, located.instance, session, new_generation=False)
    return session


@pytest.mark.slow
def test_one_run_computes_all_and_leaves_out_what_a_failure_stops(located):
    (located.path.parent / "corpus" / TRADES).write_bytes(b"no Parquet")
    result = bring_up(located, Listener()).result
    (failure,) = result.failures
    assert (failure.asset.name, failure.partition.key) == ("documents", TRADES)
    assert f"{TRADES}, after row 0: cannot be read as Parquet" in str(failure.error)
    computed = {studies.label(*done) for done in result.computed}
    # The generation is fitted on all shards: without this one there is none yet.
    by_shard = {f"{asset}[{COAST}]" for asset in ("documents", "token_sequences")}
    assert computed == by_shard | {"language_model"}
    (run,) = located.instance.get_runs()
    assert run.status == dg.DagsterRunStatus.FAILURE
    errors = [e.dagster_event.step_failure_data.error for e in located.instance.all_logs(run.run_id) if is_failure(e)]
    assert [f"Not computed: documents {TRADES}." in error.message + str(error.cause) for error in errors] == [True]

    studies.write_parquet(located.path.parent / "corpus" / TRADES, studies.TRADES_ROWS)
    listener = Listener()
    session = bring_up(located, listener)
    result = session.result
    assert not result.failures
    assert not session.checks_failed
    assert {studies.label(*done) for done in result.computed} == studies.everything() - computed
    stood = {asset.name: result.were_up_to_date(asset) for asset in asset_graph()}
    assert stood == dict.fromkeys(stood, 0) | {n.partition("[")[0]: 1 for n in computed}
    latest = located.instance.get_runs(limit=1)[0]
    assert latest.status == dg.DagsterRunStatus.SUCCESS
    assert studies.data_versions(located.path) == materialised(located), "of both runs"
    lineage = studies.ask_sql(located.path, "select distinct run_id from score_lineage")["run_id"].to_list()
    assert latest.run_id in lineage
    assert (f"gradient_sketches[{COAST}]", 2) in listener.begun
    sequences = studies.artifact(located.path, "token_sequences", shard=COAST).manifest.summary["sequences"]
    assert (f"gradient_sketches[{COAST}]", sequences, sequences) in listener.noted
    # Scores come from the sketches' pass.
    apart = {"language_model", *studies.SCORES, "drift_statistics"}
    runs_model = {asset.name for asset in asset_graph() if asset.runs_model and studies.is_due(asset)} - apart
    assert runs_model <= {name.partition("[")[0] for name, *_ in listener.noted}

    session = bring_up(located, listener)
    assert not session.result.computed
    assert sum(session.result.were_up_to_date(asset) for asset in asset_graph()) == len(studies.everything())
    assert len(located.instance.get_run_ids()) == 2, "nothing to do is no run"


def is_failure(entry):
    return entry.dagster_event is not None and entry.dagster_event.is_step_failure


def materialised(located):
    """The data version that was last reported of each partition."""
    found = {}
    for asset in asset_graph():
        records = located.instance.fetch_materializations(located.key(asset.name), limit=100, ascending=True).records
        for record in records:
            where = Partition.parse(asset.partitioned_by, record.partition_key)
            tags = record.event_log_entry.asset_materialization.tags
            found[studies.label(asset, where)] = tags["dagster/data_version"]
    return found


@pytest.mark.soak
def test_the_job_by_hand_can_fit_another_generation(computed):
    """From the launchpad, as the command's `--new-generation`."""
    config = {"ops": {"plan": {"config": {"new_generation": True}}}}
    assert computed.bring_up(run_config=config).success
    generations = studies.ask_sql(computed.path, "select generation_id from generations where is_current")
    assert generations["generation_id"].to_list() == [2]
    assert computed.bring_up().success
    assert studies.ask_sql(computed.path, "select max(generation_id) from generations").item() == 2


@pytest.mark.slow
def test_checks_are_evaluated_in_the_run(computed):
    studies.write_extra(computed.path)
    computed.command()
    (run,) = computed.instance.get_runs()
    evaluated = [
        event.dagster_event.event_specific_data
        for event in computed.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    ]
    assert all(evaluation.passed for evaluation in evaluated)
    found = {(evaluation.asset_key.path[-1], evaluation.partition): evaluation for evaluation in evaluated}
    assert {("token_sequences", EXTRA), ("curvature_drift", None)} <= found.keys()
    # What holds of several partitions is told once.
    assert found["influence_scores", None].metadata["partitions"].value == len(QUERY_SETS)


@pytest.mark.slow
def test_a_check_that_fails_is_told(located, standing):
    """Were scores ever wrong under the right version, the check of what stands would say so to whoever looks."""
    studies.copied(standing, located.path.parent)
    scores = studies.artifact(located.path, "influence_scores", shard=COAST, query_set=FIRST)
    shorter = scores.table("influence_scores").collect().head(3)
    studies.rewrite(
        located.path, "influence_scores", tables={"influence_scores": shorter}, shard=COAST, query_set=FIRST
    )
    located.sense()
    run = located.materialise("influence_scores", f"{FIRST}|{COAST}")
    (check,) = run.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("every_sequence_is_scored", False)
    assert check.metadata["scores"].value == 3
    assert check.metadata["expected"].value == 2 * 10
    assert run.success, "what stands is left alone: the check tells a person to look"

    # The catalogue that is made of it is checked by SQL, and the rows that are wrong are shown.
    studies.versions_of(located.path).workspace.catalogue.unlink()
    assert "influence_catalogue: every_sequence_scored" in bring_up(located, Listener()).checks_failed
    run = located.materialise("influence_catalogue")
    found = {check.check_name: check for check in run.get_asset_check_evaluations() if not check.passed}
    violations = found["every_sequence_scored"].metadata
    assert violations["count"].value == len(violations["violations"].records) > 0
