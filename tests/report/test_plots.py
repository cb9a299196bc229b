"""Plots are real PNG images that show what they are given, whatever it looks like."""

import numpy as np
import polars as pl
import pytest

from influence_assets.report.plots import layer_drift, score_distribution, shard_drift, spectra


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


def test_drift_of_layers_shows_every_layer_the_drift_and_the_threshold():
    few, many = layer_drift(drifts(["a", "b"])), layer_drift(drifts([f"h.{n}.mlp.c_fc" for n in range(40)]))
    assert few.startswith(b"\x89PNG")
    assert size_of(many)[1] > 5 * size_of(few)[1]
    assert few != layer_drift(drifts(["a", "b"], drift=0.15))
    assert few != layer_drift(drifts(["a", "b"], threshold=0.25))
    unknown = pl.concat([drifts(["a"]), drifts(["<b>"], drift=float("nan"))])
    assert layer_drift(unknown).startswith(b"\x89PNG")


def test_drift_of_shards_tells_new_ones_from_fitted_ones():
    rows = [(f"part-{n}.txt", n < 5, m, 0.01 * n) for n in range(9) for m in ("A", "S", "eigenvalues")]
    frame = pl.DataFrame(rows, schema=["shard_id", "fitted", "measure", "drift"], orient="row")
    png = shard_drift(frame)
    assert png.startswith(b"\x89PNG")
    assert png != shard_drift(frame.with_columns(fitted=pl.lit(value=True)))
    assert size_of(shard_drift(frame.filter(pl.col("measure") == "A")))[1] < size_of(png)[1]
