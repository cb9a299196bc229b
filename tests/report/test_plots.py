"""What plots show, read from the Vega-Lite that is drawn; and that whatever they are given can be drawn at all."""

import json

import numpy as np
import polars as pl
import pytest
import vl_convert

from influence_assets.report.plots import drift, score_distribution, spectra

PNG = b"\x89PNG\r\n\x1a\n"
MEASURES = ("A", "S", "eigenvalues")


@pytest.fixture
def charts(monkeypatch):
    """The charts that are to be drawn, as Vega-Lite has them."""
    drawn = []

    def take(spec, **_how):
        drawn.append(json.loads(spec))
        return PNG

    monkeypatch.setattr(vl_convert, "vegalite_to_png", take)
    return drawn


def rows_with(chart, *fields):
    """The rows of the one table of a chart that has these fields."""
    (rows,) = (rows for rows in chart["datasets"].values() if rows and set(fields) <= rows[0].keys())
    return [tuple(row[field] for field in fields) for row in rows]


def drifts(layers, drift=0.1, threshold=0.2):
    rows = [(layer, measure, drift, threshold) for layer in layers for measure in MEASURES]
    return pl.DataFrame(rows, schema=["module_name", "measure", "drift", "threshold"], orient="row")


def of_shards(fitted=5, measures=MEASURES, count=9):
    rows = [(f"part-{n}.txt", n < fitted, m, 0.01 * n) for n in range(count) for m in measures]
    return pl.DataFrame(rows, schema=["shard_id", "fitted", "measure", "drift"], orient="row")


def score_frame(scores):
    schema = {"query_id": pl.String, "influence_nats": pl.Float64}
    return pl.DataFrame({"query_id": ["<b>q</b>"] * len(scores), "influence_nats": scores}, schema=schema)


def test_spectra_are_the_sorted_eigenvalues_with_a_floor_for_zeros(charts):
    values = {"first": np.array([[1.0, 4.0], [2.0, 3.0]]), "second": np.zeros((1, 2))}
    spectra(values, {"first": 0.5, "second": 0.1})
    (chart,) = charts
    assert rows_with(chart, "layer", "rank", "eigenvalue") == [
        *(("first", rank, 5.0 - rank) for rank in (1, 2, 3, 4)),
        *(("second", rank, pytest.approx(1e-7)) for rank in (1, 2)),
    ]
    assert rows_with(chart, "layer", "damping") == [("first", 0.5), ("second", 0.1)]


def test_the_share_above_a_score_counts_all_sequences_and_shows_positive_scores(charts):
    score_distribution(score_frame([-1.0, 3.0, 0.5, 0.0]))
    (chart,) = charts
    assert rows_with(chart, "query", "influence_nats", "share") == [("<b>q</b>", 3.0, 0.25), ("<b>q</b>", 0.5, 0.5)]


def test_drift_shows_every_layer_the_drift_and_the_threshold(charts):
    layers = pl.concat([drifts(["b"], drift=0.15), drifts(["a"], drift=float("nan"))])
    drift(layers, of_shards())
    (chart,) = charts
    assert rows_with(chart, "module_name", "measure", "drift") == [
        *(("b", measure, 0.15) for measure in MEASURES),
        *(("a", measure, None) for measure in MEASURES),
    ]
    assert rows_with(chart, "threshold") == [(0.2,)]
    points = chart["vconcat"][0]["layer"][0]["encoding"]
    assert points["y"]["scale"]["domain"] == ["b", "a"], "in the model's order"


def test_more_layers_take_more_height(charts):
    for count in (2, 40):
        drift(drifts([f"h.{n}.mlp.c_fc" for n in range(count)]), of_shards())
    few, many = (chart["vconcat"][0]["height"] for chart in charts)
    assert many == 20 * 36 > few


def test_drift_tells_new_shards_from_fitted_ones(charts):
    drift(drifts(["a"]), of_shards(fitted=5, measures=["A"]))
    (chart,) = charts
    assert rows_with(chart, "shard", "generation") == [(n + 1, "fitted on" if n < 5 else "new since") for n in range(9)]


def test_of_very_many_shards_some_are_drawn_evenly_spaced(charts):
    drift(drifts(["a"]), of_shards(measures=["A"], count=2500))
    (chart,) = charts
    assert [shard for (shard,) in rows_with(chart, "shard")] == list(range(1, 2501, 3))


@pytest.mark.parametrize("scores", [[3.0, -1.0, 0.5], [-1.0, 0.0], []], ids=["both signs", "none positive", "none"])
def test_any_scores_can_be_drawn(scores):
    assert score_distribution(score_frame(scores)).startswith(PNG)


def test_many_layers_shards_and_questions_can_be_drawn():
    """Altair's limit of 5,000 rows must not end a run."""
    every = pl.concat([drifts([f"<b>{n}" for n in range(60)]), drifts(["unknown"], drift=float("nan"))])
    assert drift(every, of_shards(count=2500)).startswith(PNG)
    layers = {f"h.{n}.mlp.c_fc": np.linspace(1, 2, 400).reshape(20, 20) for n in range(60)}
    assert spectra(layers, dict.fromkeys(layers, 0.1)).startswith(PNG)
    frame = pl.DataFrame(
        {"query_id": [f"q{n % 60}" for n in range(60 * 200)], "influence_nats": range(1, 60 * 200 + 1)}
    )
    assert score_distribution(frame.cast({"influence_nats": pl.Float64})).startswith(PNG)
