"""Pages draw what they are given, whatever it looks like: the charts' own data against plain counts, and as PNG."""

import numpy as np
import polars as pl
import pytest

from influence_assets.engine.partitions import Partition
from influence_assets.report.charts import png
from influence_assets.report.page import Page, everything_shown, pages_of
from influence_assets.report.pages import curvature_drift, score_distribution, solver_residuals, spectra
from tests import studies
from tests.hostile import TEXTS


def drawn(chart):
    """The rows of a chart's data sets, each under the sorted names of its columns; the chart must render, too."""
    assert png(chart).startswith(b"\x89PNG")
    return {tuple(sorted(rows[0])): rows for rows in chart.to_dict()["datasets"].values() if rows}


def size_of(chart):
    """Width and height in pixels, from the PNG's header."""
    image = png(chart)
    return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")


def test_spectra_descend_and_zeros_lie_on_the_floor():
    values = {"h.0.mlp.c_fc": np.random.default_rng(0).random((6, 7)), "h.1.mlp.c_fc": np.zeros((3, 3))}
    damping = {"h.0.mlp.c_fc": 0.05, "h.1.mlp.c_fc": 0.1}
    data = drawn(spectra.chart(values, damping))
    points = {layer: [] for layer in values}
    for row in data["eigenvalue", "layer", "rank"]:
        points[row["layer"]].append((row["rank"], row["eigenvalue"]))
    assert points["h.0.mlp.c_fc"] == list(enumerate(sorted(values["h.0.mlp.c_fc"].ravel(), reverse=True), start=1))
    assert points["h.1.mlp.c_fc"] == [(rank, 0.1 * 1e-6) for rank in range(1, 10)], "a logarithm of 0 cannot be drawn"
    assert {row["layer"]: row["damping"] for row in data["damping", "layer"]} == damping


def test_of_a_long_spectrum_both_ends_are_kept():
    values = np.linspace(1, 2, 10_000).reshape(100, 100)
    rows = drawn(spectra.chart({"a": values}, {"a": 0.1}))["eigenvalue", "layer", "rank"]
    assert len(rows) <= 200
    assert (rows[0]["rank"], rows[0]["eigenvalue"]) == (1, 2)
    assert (rows[-1]["rank"], rows[-1]["eigenvalue"]) == (10_000, 1)


def scores(by_query):
    rows = [(query, float(score)) for query, values in by_query.items() for score in values]
    return pl.DataFrame(rows, schema={"query_id": pl.String, "influence_nats": pl.Float64}, orient="row")


def test_score_distributions_show_the_share_above_each_positive_score():
    by_query = {"<b>q</b>": [3.0, -1.0, 0.5, 0.0], "second": [2.0, 5.0], "none": [-1.0, -2.0]}
    rows = drawn(score_distribution.chart(scores(by_query)))["influence_nats", "query", "share"]
    expected = {
        (query, score, sum(other >= score for other in values) / len(values))
        for query, values in by_query.items()
        for score in values
        if score > 0
    }
    assert {(row["query"], row["influence_nats"], row["share"]) for row in rows} == expected


@pytest.mark.parametrize("by_query", [{}, {"q": [-1.0, -2.0, 0.0]}])
def test_score_distributions_without_a_positive_score_are_empty(by_query):
    assert drawn(score_distribution.chart(scores(by_query))) == {}


def test_residuals_are_the_queries_median_between_their_quartiles():
    values = {1: [0.5, 0.25, 1.0], 2: [0.125, 0.0, 0.25]}
    rows = [(f"q{n}", "cg", step, float(step), 9, v) for step, of in values.items() for n, v in enumerate(of)]
    columns = ["query_id", "method", "iteration", "passes", "sequences", "relative_residual"]
    data = drawn(solver_residuals.chart(pl.DataFrame(rows, columns, orient="row")))
    (points,) = data.values()
    assert [(p["passes"], p["low"], p["median"], p["high"]) for p in points] == [
        (1.0, 0.375, 0.5, 0.75),
        (2.0, 0.15625, 0.1875, 0.21875),  # a residual of 0 is left out
    ]


def layer_drifts(layers, drift=0.1, threshold=0.2):
    rows = [(layer, measure, drift, threshold) for layer in layers for measure in ("A", "S", "eigenvalues")]
    return pl.DataFrame(rows, schema=["module_name", "measure", "drift", "threshold"], orient="row")


def shard_drifts(shards=9, fitted=5):
    rows = [(f"part-{n}.txt", n < fitted, m, 0.01 * n) for n in range(shards) for m in ("A", "S", "eigenvalues")]
    return pl.DataFrame(rows, schema=["shard_id", "fitted", "measure", "drift"], orient="row")


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_can_be_drawn(text):
    assert png(score_distribution.chart(scores({text: [3.0, 1.0], "other": [1.0, 2.0]}))).startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_told_in_the_pictures_place(standing, monkeypatch):
    def draw(_artifact):
        raise ValueError("no such \x1b colour")

    page = Page(name="broken", title="Broken", asset="curvature", draw=draw)
    monkeypatch.setattr("influence_assets.report.page._pages", lambda _folders: [page])
    versions = studies.versions_of(standing)
    asset = versions.workspace.graph["curvature"]
    artifact = versions.workspace.store.open(versions.key(asset, Partition()))
    shown = everything_shown(asset, artifact)
    assert shown["broken"] == "The picture cannot be drawn: no such \\x1b colour"
    assert shown.keys() > {"broken"}


def test_drift_shows_every_layer_the_threshold_and_new_shards_beside_fitted_ones():
    layers = pl.concat([layer_drifts(["b", "a"]), layer_drifts(["<b>"], drift=float("nan"))])
    data = drawn(curvature_drift.chart(layers, shard_drifts()))
    points = {(row["module_name"], row["measure"]): row["drift"] for row in data["drift", "measure", "module_name"]}
    assert points == {(n, m): None if n == "<b>" else 0.1 for n in ("b", "a", "<b>") for m in ("A", "S", "eigenvalues")}
    assert [row["threshold"] for row in data["threshold",]] == [0.2]
    shards = {(row["shard"], row["measure"]): row for row in data["drift", "generation", "measure", "shard"]}
    assert len(shards) == 9 * 3
    for (number, _), row in shards.items():
        assert row["drift"] == pytest.approx(0.01 * (number - 1))
        assert row["generation"] == ("fitted on" if number <= 5 else "new since")


def test_layers_are_shown_in_the_models_order_and_each_has_its_line():
    few = curvature_drift.chart(layer_drifts(["b", "a"]), shard_drifts())
    assert few.to_dict()["vconcat"][0]["layer"][0]["encoding"]["y"]["scale"]["domain"] == ["b", "a"]
    many = curvature_drift.chart(layer_drifts([f"h.{n}.mlp.c_fc" for n in range(40)]), shard_drifts())
    assert size_of(many)[1] > 1.5 * size_of(few)[1]


@pytest.mark.slow
def test_many_shards_layers_and_questions_are_drawn():
    """Altair's limit of 5,000 rows must not end a run."""
    shards = drawn(curvature_drift.chart(layer_drifts([f"h.{n}" for n in range(60)]), shard_drifts(shards=2500)))
    numbers = {row["shard"] for row in shards["drift", "generation", "measure", "shard"]}
    assert numbers == set(range(1, 2501, 3)), "evenly spaced"
    layers = {f"h.{n}.mlp.c_fc": np.linspace(1, 2, 400).reshape(20, 20) for n in range(60)}
    drawn(spectra.chart(layers, dict.fromkeys(layers, 0.1)))
    drawn(score_distribution.chart(scores({f"q{n}": range(1, 201) for n in range(60)})))


@pytest.mark.parametrize(
    ("asset", "page"),
    [
        ("curvature", "spectra"),
        ("curvature_drift", "curvature_drift"),
        ("influence_catalogue", "score_distribution"),
    ],
)
def test_pages_draw_the_artifacts_of_their_assets(standing, asset, page):
    from influence_assets.assets import asset_graph
    from tests import studies

    assert [page.name for page in pages_of(asset)] == [page]
    artifact = studies.artifact(standing, asset)
    assert everything_shown(asset_graph()[asset], artifact)[page].png.startswith(b"\x89PNG")
