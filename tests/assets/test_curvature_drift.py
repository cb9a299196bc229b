"""The drift of a growing corpus, against dense matrices built from the shards' own covariances."""

import numpy as np
import polars as pl
import pytest
import torch

from influence_assets.assets import asset_graph
from influence_assets.errors import StorageError
from influence_assets.layouts import drift
from influence_assets.maths.curvature_form import CurvatureForm
from tests import studies
from tests.shard_statistics import shard_statistics
from tests.studies import COAST, EXTRA, TRADES

LAYERS = [f"transformer.h.{block}.mlp.{layer}" for block in (0, 1) for layer in ("c_fc", "c_proj")]
MEASURES = ["A", "S", "eigenvalues"]
EXACT = {("c_fc", "A"), ("c_proj", "S")}
"""Factors of width 9 and 8, of which every entry is kept; the others have 33 and 32 and are sketched."""


def drifts(study):
    """{(layer, measure): drift}."""
    rows = studies.artifact(study, "curvature_drift").table("layer_drift").collect()
    return {(row["module_name"], row["measure"]): row["drift"] for row in rows.iter_rows(named=True)}


def summary(study):
    return studies.artifact(study, "curvature_drift").manifest.summary


def dense_factor_drift(study, layer, letter, shards):
    """‖offdiag(Qᵀ M Q)‖² / ‖Qᵀ M Q‖² with M the sum of the shards' totals."""
    M = sum(shard_statistics(study, shard)[0][layer][letter] for shard in shards)
    Q = studies.artifact(study, "eigenbases").array(f"{layer}.Q_{letter}")
    rotated = Q.T @ M @ Q
    off = rotated - np.diag(np.diag(rotated))
    return (off**2).sum() / (rotated**2).sum()


def dense_eigenvalue_drift(study, layer, shards):
    """Σ|p − q| / Σq over blocks, entry by entry; 33 columns fall into 32 blocks."""
    parts = [shard_statistics(study, shard) for shard in shards]
    now = sum(totals[layer]["Λ"] for totals, _ in parts) / sum(sequences for _, sequences in parts)
    then = studies.artifact(study, "curvature").array(f"{layer}.corrected_eigenvalues")
    change = {}
    for i, j in np.ndindex(now.shape):
        block = tuple(k * min(32, width) // width for k, width in zip((i, j), now.shape, strict=True))
        change[block] = change.get(block, 0) + now[i, j] - then[i, j]
    return sum(abs(value) for value in change.values()) / then.sum()


def test_what_a_generation_was_fitted_on_has_not_drifted(standing):
    found = drifts(standing)
    assert list(found) == [(layer, measure) for layer in LAYERS for measure in MEASURES]
    assert max(found.values()) < 1e-15
    told = summary(standing)
    assert (told["shards"], told["new_shards"], told["gone_shards"], told["exceeds"]) == (2, 0, 0, False)


@pytest.mark.slow
def test_a_new_shard_drifts_as_dense_matrices_say(study):
    studies.write_extra(study)
    studies.compute(study)
    shards = (COAST, TRADES, EXTRA)
    found = drifts(study)
    for layer in LAYERS:
        assert found[layer, "eigenvalues"] == pytest.approx(dense_eigenvalue_drift(study, layer, shards), rel=1e-9)
        for letter in "AS":
            exact = (layer.rsplit(".", 1)[1], letter) in EXACT
            expected = dense_factor_drift(study, layer, letter, shards)
            assert found[layer, letter] == pytest.approx(expected, rel=1e-9 if exact else 0.4)
    told = summary(study)
    worst = max(found, key=found.get)
    assert (told["largest_drift_layer"], told["largest_drift_measure"]) == worst
    assert told["largest_drift"] == found[worst]
    assert (told["shards"], told["new_shards"], told["gone_shards"]) == (3, 1, 0)


@pytest.mark.soak
def test_each_shard_has_its_own_drift_and_is_fitted_on_or_new(study):
    studies.write_extra(study)
    studies.compute(study)
    rows = studies.artifact(study, "curvature_drift").table("shard_drift").collect()
    assert rows.select("shard_id", "fitted", "measure").rows() == [
        (shard, shard != EXTRA, measure) for shard in sorted((COAST, TRADES, EXTRA)) for measure in MEASURES
    ]
    for shard in (COAST, EXTRA):
        own = rows.filter(pl.col("shard_id") == shard)
        expected = np.median([dense_eigenvalue_drift(study, layer, [shard]) for layer in LAYERS])
        assert own.filter(pl.col("measure") == "eigenvalues")["drift"].item() == pytest.approx(expected, rel=1e-9)
        for letter in "AS":
            expected = np.median([dense_factor_drift(study, layer, letter, [shard]) for layer in LAYERS])
            assert own.filter(pl.col("measure") == letter)["drift"].item() == pytest.approx(expected, rel=0.4)


@pytest.mark.soak
def test_a_changed_shard_is_new_and_what_it_was_is_gone(study):
    studies.write_jsonl(study.parent / "corpus" / COAST, studies.COAST_ROWS[:2])
    studies.compute(study)
    told = summary(study)
    assert (told["shards"], told["new_shards"], told["gone_shards"]) == (2, 1, 1)
    assert drifts(study)[LAYERS[0], "A"] == pytest.approx(
        dense_factor_drift(study, LAYERS[0], "A", (COAST, TRADES)), rel=1e-9
    )


@pytest.mark.soak
def test_a_vanished_shard_counts_no_longer(study):
    (study.parent / "corpus" / TRADES).unlink()
    studies.compute(study)
    told = summary(study)
    assert (told["shards"], told["new_shards"], told["gone_shards"]) == (1, 0, 1)
    for layer in LAYERS:
        assert drifts(study)[layer, "eigenvalues"] == pytest.approx(dense_eigenvalue_drift(study, layer, [COAST]))


@pytest.mark.slow
def test_the_sum_does_not_depend_on_how_many_shards_are_read_at_once(study, monkeypatch):
    studies.write_extra(study)
    studies.compute(study)
    together = studies.artifact(study, "curvature_drift")
    expected = [
        together.table(name).drop("threshold", strict=False).collect() for name in ("layer_drift", "shard_drift")
    ]
    monkeypatch.setattr(drift, "SHARDS_AT_ONCE", 1)
    studies.write_study(study.parent, curvature={"drift_threshold": 0.3})
    assert "curvature_drift" in studies.compute(study)
    single = studies.artifact(study, "curvature_drift")
    found = [single.table(name).drop("threshold", strict=False).collect() for name in ("layer_drift", "shard_drift")]
    assert [frame.rows() for frame in found] == [frame.rows() for frame in expected]


@pytest.mark.slow
def test_the_threshold_decides_and_moves_nothing_else(study):
    studies.write_extra(study)
    studies.compute(study)
    largest = summary(study)["largest_drift"]
    for threshold, exceeds in ((largest * 1.01, False), (largest * 0.99, True)):
        studies.write_study(study.parent, curvature={"drift_threshold": threshold})
        assert set(studies.compute(study)) - {"influence_catalogue"} == {"curvature_drift"}
        told = summary(study)
        assert (told["exceeds"], told["threshold"]) == (exceeds, threshold)
        open_input = studies.versions_of(study).workspace.store.open
        checks = asset_graph()["curvature_drift"].checks
        ((_, finding),) = checks.findings(studies.artifact(study, "curvature_drift"), open_input)
        assert not finding.blocking
        assert finding.passed is not exceeds
        assert finding.figures["module_name"] == told["largest_drift_layer"]
        assert finding.figures["measure"] == told["largest_drift_measure"]
        assert (finding.figures["drift"], finding.figures["threshold"]) == (largest, threshold)
        assert ("what_to_do" in finding.figures) is exceeds


def test_statistics_of_other_layers_are_refused(study):
    stored = studies.artifact(study, "corrected_eigenvalues")
    studies.rewrite(study, "corrected_eigenvalues", arrays={"drift": stored.array("drift")[:, :-1]})
    studies.write_study(study.parent, curvature={"drift_threshold": 0.3})
    with pytest.raises(StorageError, match="its drift holds"):
        studies.compute(study)


def test_what_was_packed_is_unpacked(standing):
    shapes = studies.artifact(standing, "eigenbases").manifest.summary["shapes"]
    vector = torch.from_numpy(studies.artifact(standing, "corrected_eigenvalues").array("drift")[0])
    layers = drift.unpacked(vector, shapes, CurvatureForm())
    assert list(layers) == LAYERS
    np.testing.assert_array_equal(drift.packed(layers), vector.numpy())
    for layer, found in layers.items():
        Q = studies.artifact(standing, "eigenbases").array(f"{layer}.Q_S")
        S = shard_statistics(standing, COAST)[0][layer]["S"]
        expected = np.diag(Q.T @ S @ Q)
        np.testing.assert_allclose(found.S.diagonal.numpy(), expected, rtol=0, atol=1e-9 * expected.max())
    with pytest.raises(RuntimeError):
        drift.unpacked(vector[:-1], shapes, CurvatureForm())
