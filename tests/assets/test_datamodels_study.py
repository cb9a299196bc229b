"""Datamodels of a bank: their rows, and that they are judged by predictions of what they have not seen."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from influence_assets.analysis.datamodels import fitted
from influence_assets.engine.partitions import Partition
from influence_assets.study import Study
from tests import studies
from tests.assets.test_leave_one_out import laid_out, opened, write

DRAWN = {"subsets": 8, "seeds": 2}


def bank_of(study):
    """Which units are in each subset, and each query's outcomes, from the artifacts alone."""
    names = Study.load(study).evaluation.retrainings()
    models = [opened(study, "retrained_models", Partition(name=name)) for name in names]
    left = {m.manifest.summary["subset"]: set(m.table("left_out").collect()["unit"]) for m in models}
    outcomes = {}
    for model in models:
        for query_id, log_p in model.table("outcomes").select("query_id", "log_probability_nats").collect().rows():
            outcomes.setdefault(query_id, {}).setdefault(model.manifest.summary["subset"], []).append(log_p)
    y = {query_id: [np.mean(of_subset[s]) for s in sorted(of_subset)] for query_id, of_subset in outcomes.items()}
    return left, y


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    study = laid_out(tmp_path_factory.mktemp("datamodels"))
    write(study, methods=["ekfac", "datamodels"], evaluation=DRAWN)
    names = studies.compute(study)
    assert sum(name.startswith("retrained_models[") for name in names) == 16
    studies.compute(study, requested={"evaluations": [Partition()]})
    return study


def test_rows_are_the_weights_of_the_fit(computed):
    left, y = bank_of(computed)
    rows = studies.ask_sql(
        computed, "select query_id, sequence_id, score, unit from method_scores where method = 'datamodels'"
    )
    sequences = sorted(rows["sequence_id"].unique().to_list(), key=str)
    is_in = np.array([[str(name) not in left[subset] for subset in sorted(left)] for name in sequences])
    ids = sorted(y)
    expected = fitted(is_in, np.array([y[query_id] for query_id in ids])).weights
    found = {(q, s): score for q, s, score, _ in rows.rows()}
    assert len(found) == expected.size
    for row, query_id in enumerate(ids):
        assert [found[query_id, s] for s in sequences] == pytest.approx(expected[row], abs=1e-9)
    assert set(rows["unit"]) == {"relative_nats"}
    assert np.abs(expected).max() > 1e-6


def test_they_are_judged_by_predictions_of_subsets_that_they_have_not_seen(computed):
    _, y = bank_of(computed)
    predictions = opened(computed, "datamodels").table("subset_predictions").collect()
    correlations = []
    for query_id, measured in y.items():
        of_query = predictions.filter(query_id=query_id).sort("subset")["predicted_nats"].to_list()
        correlations.append(spearmanr(of_query, measured).statistic)
    sql = "select value from evaluations where method = 'datamodels' and figure = 'lds' and query_set_id is null"
    assert studies.ask_sql(computed, sql).item() == pytest.approx(np.mean(correlations))


def test_their_sizes_are_not_compared_with_measured_ones(computed):
    """They are shrunk, and relative to the average unit."""
    sql = "select count(*) as n from evaluations where method = 'datamodels' and figure in ('slope', 'r_squared')"
    assert studies.ask_sql(computed, sql).item() == 0


def test_by_a_column_they_are_scores_of_groups(computed, tmp_path):
    study = studies.copied(computed, tmp_path / "copy")
    write(study, methods=["ekfac", "datamodels"], evaluation={"subsets": 6, "seeds": 1, "by": "document"})
    studies.compute(study)
    rows = studies.ask_sql(study, "select * from group_scores where method = 'datamodels'")
    assert rows.height == 3 * 7
    assert set(rows["models"]) == {6}
    assert rows.group_by("query_id").agg(total=rows["score"].sum())["total"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert studies.ask_sql(study, "select * from method_scores where method = 'datamodels'").is_empty()
