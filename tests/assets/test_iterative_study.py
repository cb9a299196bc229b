"""A study that scores with conjugate gradients: what it stores of their residuals."""

from dataclasses import replace

import pytest

from influence_assets.assets import open_workspace
from influence_assets.assets.method_costs import preparing_operations
from influence_assets.assets.study_sizes import StudySizes
from influence_assets.forecast.estimates import estimates
from influence_assets.methods.registry import attribution_methods
from influence_assets.report.page import pages_of
from influence_assets.storage.catalogue import run_checks
from influence_assets.study import Study
from tests import studies


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    methods = ["ekfac", "conjugate_gradients", "astra", "gradient_dot"]
    options = {"astra": {"iterations": 2, "check_every": 2}}
    study = studies.lay_out(tmp_path_factory.mktemp("solved"), methods=methods, method_options=options)
    studies.compute(study)
    return study


def test_every_query_has_the_residual_of_every_iteration(solved):
    rows = studies.ask_sql(solved, "select query_id, method, iteration, passes from solver_residuals").rows()
    queries = studies.ask_sql(solved, "select query_id from queries")["query_id"].to_list()
    assert len(queries) == 3
    steps = [("conjugate_gradients", step, step) for step in (1, 2, 3)] + [("astra", step, step) for step in (0, 2)]
    assert set(rows) == {(query, *step) for query in queries for step in steps}
    (drawn,) = studies.ask_sql(solved, "select distinct sequences from solver_residuals")["sequences"]
    assert drawn == studies.ask_sql(solved, "select count(*) from sequences").item()


def test_the_objective_falls_though_ekfacs_answer_may_be_worse_than_none(solved):
    rows = studies.ask_sql(solved, "from solver_residuals order by method, iteration").partition_by(
        "query_id", "method"
    )
    assert len(rows) == 2 * 3
    for of_query in rows:
        assert of_query["method"][0] == "astra" or (of_query["objective"] < 0).all()
        assert (of_query["objective"].diff().drop_nulls() < 0).all()


def test_the_catalogue_is_whole(solved):
    violations = run_checks(open_workspace(Study.load(solved)).catalogue)
    assert [name for name, rows in violations.items() if rows.height] == []


def test_a_later_shard_makes_them_anew_and_leaves_none_of_before(solved, tmp_path):
    study = studies.copied(solved, tmp_path)
    before = studies.ask_sql(study, "select relative_residual from solver_residuals order by all")
    studies.write_extra(study)
    assert {f"method_vectors[{name}]" for name in studies.QUERY_SETS} <= set(studies.compute(study))
    after = studies.ask_sql(study, "select relative_residual from solver_residuals order by all")
    assert after.height == before.height
    assert not after.equals(before)
    studies.assert_no_stale_row(study)


def test_they_are_drawn(solved):
    (page,) = pages_of("method_vectors")
    first = studies.artifact(solved, "method_vectors", query_set=studies.FIRST)
    assert page.draw(first).startswith(b"\x89PNG")


def test_the_plan_counts_its_passes_over_the_training_sequences(tmp_path):
    """Five products of each of 3 queries' vectors with all sequences, in one call for each of the 2 query sets."""
    listed = {"methods": ["ekfac", "conjugate_gradients"], "method_options": {"conjugate_gradients": {"iterations": 5}}}
    sizes = StudySizes(studies.versions_of(studies.lay_out(tmp_path, **listed)))
    planned = next(stage.operations for stage in estimates(sizes) if stage.asset.name == "method_vectors")
    shape, sequences = sizes.shape, sizes.all_sequences()
    shared = 2 * 5 * sequences * (shape.forward + shape.head)
    assert planned == pytest.approx(3 * 5 * sequences * shape.gauss_newton() + shared)


def test_what_a_method_does_not_declare_is_unknown_rather_than_nothing(solved):
    sizes, methods = StudySizes(studies.versions_of(solved)), attribution_methods()
    undeclared = replace(methods["conjugate_gradients"], passes=None)
    assert preparing_operations(sizes.shape, undeclared, None, 3, 1, 8) is None
    assert preparing_operations(sizes.shape, methods["ekfac"], None, 3, 1, 8) == 0
