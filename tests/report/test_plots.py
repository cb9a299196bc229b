"""Plots are real PNG images that show what they are given, whatever it looks like."""

import numpy as np
import polars as pl
import pytest

from influence_assets.report.plots import score_distribution, spectra


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
