"""Responses in a study: of the sequences that it names, beside the influence that estimates them."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr

from influence_assets.assets import open_workspace
from influence_assets.assets.pbrf_scores import minima_are_reached
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.capture.bregman import ProximalBregman
from influence_assets.errors import InputError
from influence_assets.forecast.estimates import estimates
from influence_assets.layouts import queries
from influence_assets.layouts.factors import curvature_on
from influence_assets.layouts.model import runner_in_float64
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.maths.lbfgs import Search
from influence_assets.storage.catalogue import run_checks
from influence_assets.study import Study
from influence_assets.upkeep.verify import verify
from tests import studies

METHODS = ["ekfac", "pbrf"]
OPTIONS = {"strongest": 1, "fit_sequences": 100, "tolerance": 0.01}
DAMPED = {"damping_scale": 10.0}
"""A copy of one of eight sequences would move an untrained model far away from where its curvature is known."""

RESPONSES = "select query_id, sequence_id, score from method_scores where method = 'pbrf' order by all"


@pytest.fixture(scope="module")
def responded(tmp_path_factory):
    study = studies.lay_out(
        tmp_path_factory.mktemp("responded"), curvature=DAMPED, methods=METHODS, method_options={"pbrf": OPTIONS}
    )
    assert "pbrf_scores" in studies.compute(study)
    return study


def test_it_is_of_each_querys_highest_and_lowest_scores_for_all_queries(responded):
    ends = studies.ask_sql(
        responded,
        "select distinct sequence_id from current_scores qualify "
        "1 in (row_number() over (partition by query_id order by influence_nats desc), "
        "row_number() over (partition by query_id order by influence_nats))",
    )["sequence_id"]
    rows = studies.ask_sql(responded, RESPONSES)
    queries = studies.ask_sql(responded, "select query_id from queries")["query_id"]
    assert set(rows.select("query_id", "sequence_id").rows()) == {(q, s) for q in queries for s in ends}
    units = studies.ask_sql(responded, "select distinct unit, generation_id from method_scores where method = 'pbrf'")
    assert units.rows() == [("nats", 1)]


def test_influence_estimates_it(responded):
    """Beside EK-FAC's scores: the strongest have its sign, and they correlate."""
    sql = f"from ({RESPONSES}) inner join current_scores using (query_id, sequence_id)"
    rows = studies.ask_sql(responded, sql)
    assert pearsonr(rows["score"], rows["influence_nats"]).statistic > 0.8
    highest = rows.sort("influence_nats").group_by("query_id").tail(1)
    assert (highest["score"] > 0).all()


def test_a_row_is_what_the_definition_gives_for_its_sequence(responded):
    workspace, model = studies.versions_of(responded).workspace, studies.artifact(responded, "language_model")
    runner = runner_in_float64(workspace, model)
    eigenbases, curvature = (studies.artifact(responded, name) for name in ("eigenbases", "curvature"))
    shards = [shard_sequences(studies.artifact(responded, "token_sequences", shard=shard)) for shard in studies.SHARDS]
    training = type(shards[0]).joined(shards)
    bregman = ProximalBregman(runner, curvature_on(runner, eigenbases, curvature), training)
    read = [queries.read_tokenized(model, workspace, file) for file in workspace.query_sets.values()]
    asked = [queries.as_sequences(tokenized) for _, tokenized in read]
    rows = studies.ask_sql(responded, RESPONSES)
    sequence, N = rows["sequence_id"][0], int(curvature.manifest.summary["training_sequences"])
    assert len(training) == N
    added = training.take(np.flatnonzero(training.keys == sequence))
    expected = bregman.response(added, asked, 1 / N, Search(1e-6)).changes
    ids = pl.concat(named["query_id"] for named, _ in read)
    found = {query: score for query, row, score in rows.rows() if row == sequence}
    largest = np.abs(expected).max()
    np.testing.assert_allclose([found[query] for query in ids], expected, atol=0.02 * largest)


def test_the_study_is_whole_and_its_check_finds_a_response_that_is_not_reached(responded, tmp_path):
    violations = run_checks(open_workspace(Study.load(responded)).catalogue)
    assert [name for name, rows in violations.items() if rows.height] == []
    good = studies.artifact(responded, "pbrf_scores")
    assert minima_are_reached(good, None).passed
    study = studies.copied(responded, tmp_path)
    rows = good.table("minima").collect().with_columns(relative_gradient=pl.lit(0.011))
    bad = studies.rewrite(study, "pbrf_scores", tables={"minima": rows})
    assert not minima_are_reached(bad, None).passed


def test_another_shard_makes_it_anew_and_sequences_that_are_gone_are_left_out(responded, tmp_path):
    study = studies.copied(responded, tmp_path)
    shard = studies.ask_sql(study, "select sequence_id from sequences order by all")["sequence_id"].to_list()
    named = {**OPTIONS, "strongest": 0, "sequences": [shard[0], 12345]}
    studies.write_study(study.parent, curvature=DAMPED, methods=METHODS, method_options={"pbrf": named})
    assert set(studies.compute(study)) == {"pbrf_scores", "influence_catalogue"}
    assert studies.ask_sql(study, RESPONSES)["sequence_id"].unique().to_list() == [shard[0]]
    (note,) = studies.artifact(study, "pbrf_scores").manifest.summary["notes"]
    assert note.startswith("1 of the sequences")
    before = studies.data_versions(study)["pbrf_scores"]
    studies.write_extra(study)
    assert "pbrf_scores" in studies.compute(study)
    assert studies.data_versions(study)["pbrf_scores"] != before
    studies.assert_no_stale_row(study)
    assert verify(open_workspace(Study.load(study)), lambda *_: None) == []


def test_a_forecast_counts_it(tmp_path):
    sizes = StudySizes(studies.versions_of(studies.lay_out(tmp_path, methods=METHODS)))
    (stage,) = [each for each in estimates(sizes) if each.asset.name == "pbrf_scores"]
    assert stage.outstanding == 1
    assert stage.operations > 100 * sizes.all_sequences() * sizes.shape.training_step()
    assert stage.peak_memory_bytes > 0


def test_without_being_listed_it_is_not_computed(tmp_path):
    sizes = StudySizes(studies.versions_of(studies.lay_out(tmp_path)))
    assert [each for each in estimates(sizes) if each.asset.name == "pbrf_scores" and each.outstanding] == []


def test_options_that_it_does_not_have_are_refused(tmp_path):
    study = studies.lay_out(tmp_path, methods=METHODS, method_options={"pbrf": {"strongest": -1}})
    with pytest.raises(InputError, match=r"method_options\.pbrf\.strongest"):
        open_workspace(Study.load(study))
