"""`queries.rank` in a study: what is kept, what is said of it, and which versions depend on it."""

import numpy as np
import pytest

from influence_assets.assets.query_gradients import ASSET
from influence_assets.extensions import EXTENSIONS
from tests import studies
from tests.extension.test_methods import EXAMPLE, NAME, baseline


@pytest.fixture
def study(tmp_path):
    return studies.lay_out(tmp_path)


def test_a_rank_changes_the_gradients_and_says_what_it_loses(study):
    studies.compute(study)
    exact, before = studies.scores(study), studies.data_versions(study)
    sql = "select query_id, truncation_error from queries order by all"
    assert set(studies.ask_sql(study, sql)["truncation_error"]) == {0.0}
    assert "rank" not in ASSET.shown(gradients(study))["in_short"]
    studies.write_study(study.parent, queries={"rank": 2})
    done = studies.compute(study)
    assert {name.split("[")[0] for name in done} == {
        *("query_gradients", *studies.SCORES, "influence_details", "influence_catalogue"),
    }
    assert studies.data_versions(study) != before
    errors = dict(studies.ask_sql(study, sql).rows())
    assert all(0 < error < 1 for error in errors.values())
    largest = max(gradients(study, name).manifest.summary["largest_truncation_error"] for name in studies.QUERY_SETS)
    assert largest == max(errors.values())
    shown = ASSET.shown(gradients(study))
    assert "kept to a lower rank" in shown["in_short"]
    assert "truncation_error" in shown["first_queries"].rows.columns
    kept = studies.scores(study)
    for query, error in errors.items():
        pairs = [pair for pair in exact if pair[0] == query]
        one, other = (np.array([scores[pair] for pair in pairs]) for scores in (exact, kept))
        assert 0 < np.linalg.norm(one - other) / np.linalg.norm(one) < 3 * error
    # As many as there are tokens: nothing is lost, and the checks of sums hold.
    studies.write_study(study.parent, queries={"rank": 1000})
    studies.compute(study)
    assert studies.scores(study) == pytest.approx(exact, rel=1e-9)
    studies.write_study(study.parent)
    assert studies.data_versions(study) == before


def gradients(study, query_set=studies.FIRST):
    return studies.artifact(study, "query_gradients", query_set=query_set)


@pytest.mark.slow
def test_another_method_made_of_v_alone_leaves_the_gradients_as_they_are(study):
    studies.write_study(study.parent, methods=["ekfac"])
    studies.compute(study)
    studies.write_study(study.parent, methods=["ekfac", "gradient_dot"])
    done = {name.split("[")[0] for name in studies.compute(study)}
    assert done == {"method_scores", "influence_catalogue"}


@pytest.mark.slow
def test_methods_that_are_not_layer_by_layer_are_made_of_what_is_kept_and_stored_in_full(study, monkeypatch):
    monkeypatch.setenv(EXTENSIONS, str(EXAMPLE))
    found = []
    for rank in (1000, None, 2):
        studies.write_study(study.parent, methods=["ekfac", NAME], queries={"rank": rank})
        studies.compute(study)
        found.append(baseline(study, NAME))
        vectors = studies.artifact(study, "method_vectors", query_set=studies.FIRST)
        (layer,) = {n for n in vectors.array_names() if n.endswith(f"h.0.mlp.c_fc.{NAME}")}
        assert vectors.array_record(layer).shape == (2, 32, 9)
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[2] != pytest.approx(found[1], rel=1e-3)
