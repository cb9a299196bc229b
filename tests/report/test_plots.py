"""Plots are real PNG images that show what they are given, whatever it looks like."""

import numpy as np
import polars as pl
import pytest

from influence_assets.report.plots import drift, score_distribution, spectra


def test_spectra_with_zeros_and_several_layers():
    rng = np.random.default_rng(0)
    values = {"h.0.mlp.c_fc": rng.random((6, 7)), "h.1.mlp.c_fc": np.zeros((3, 3))}
    png = spectra(values, {"h.0.mlp.c_fc": 0.05, "h.1.mlp.c_fc": 0.1})
    assert png.startswith(b"\x89PNG")
    assert png != spectra({"h.0.mlp.c_fc": values["h.0.mlp.c_fc"]}, {"h.0.mlp.c_fc": 0.05})


@pytest.mark.parametrize("scores", [[3.0, -1.0, 0.5], [-1.0, -2.0, 0.0], []])
def test_score_distributions_with_and_without_positive_scores(scores):
    frame = pl.DataFrame({"query_id": ["<b>q</b>"] * len(scores), "influence_nats": scores}).cast(
        {"query_id": pl.String}
    )
    assert score_distribution(frame.cast({"influence_nats": pl.Float64})).startswith(b"\x89PNG")


def drifts(layers, drift=0.1, threshold=0.2):
    rows = [(layer, measure, drift, threshold) for layer in layers for measure in ("A", "S", "eigenvalues")]
    return pl.DataFrame(rows, schema=["module_name", "measure", "drift", "threshold"], orient="row")


def size_of(png):
    """Width and height, from the PNG's header."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def of_shards(fitted=5, measures=("A", "S", "eigenvalues")):
    rows = [(f"part-{n}.txt", n < fitted, m, 0.01 * n) for n in range(9) for m in measures]
    return pl.DataFrame(rows, schema=["shard_id", "fitted", "measure", "drift"], orient="row")


def test_drift_shows_every_layer_the_drift_and_the_threshold():
    few = drift(drifts(["a", "b"]), of_shards())
    many = drift(drifts([f"h.{n}.mlp.c_fc" for n in range(40)]), of_shards())
    assert few.startswith(b"\x89PNG")
    assert size_of(many)[1] > 1.5 * size_of(few)[1]
    assert few != drift(drifts(["a", "b"], drift=0.15), of_shards())
    assert few != drift(drifts(["a", "b"], threshold=0.25), of_shards())
    unknown = pl.concat([drifts(["a"]), drifts(["<b>"], drift=float("nan"))])
    assert drift(unknown, of_shards()).startswith(b"\x89PNG")


def test_drift_tells_new_shards_from_fitted_ones():
    layers = drifts(["a"])
    png = drift(layers, of_shards())
    assert png != drift(layers, of_shards(fitted=9))
    assert size_of(drift(layers, of_shards(measures=["A"])))[1] < size_of(png)[1]


def test_many_shards_layers_and_questions_are_drawn():
    """Altair's limit of 5,000 rows must not end a run."""
    rows = [(f"part-{n}.txt", n < 5, m, 0.01) for n in range(2500) for m in ("A", "S", "eigenvalues")]
    shards = pl.DataFrame(rows, schema=["shard_id", "fitted", "measure", "drift"], orient="row")
    assert drift(drifts([f"h.{n}" for n in range(60)]), shards).startswith(b"\x89PNG")
    layers = {f"h.{n}.mlp.c_fc": np.linspace(1, 2, 400).reshape(20, 20) for n in range(60)}
    assert spectra(layers, dict.fromkeys(layers, 0.1)).startswith(b"\x89PNG")
    frame = pl.DataFrame(
        {"query_id": [f"q{n % 60}" for n in range(60 * 200)], "influence_nats": range(1, 60 * 200 + 1)}
    )
    assert score_distribution(frame.cast({"influence_nats": pl.Float64})).startswith(b"\x89PNG")
