"""A computation over many shards that dies goes on from its last checkpoint, and comes to the same."""

import numpy as np
import pytest

from influence_assets.assets import asset_graph
from influence_assets.capture import fitted_totals, layer_groups
from influence_assets.engine import checkpoints
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan
from influence_assets.upkeep.garbage import collect
from tests import studies
from tests.closeness import assert_same_scores
from tests.studies import COAST, EXTRA, TRADES

PASSES = {"covariances": "covariance_pass", "corrected_eigenvalues": "correction_pass"}


class _KilledError(BaseException):
    """In the place of the signal that would end the process."""


@pytest.fixture
def laid_out(tmp_path):
    """A study of three shards, of which nothing is computed."""
    study = studies.lay_out(tmp_path)
    studies.write_extra(study)
    return study


def stored(study, asset):
    """The manifests of what is stored of an asset, without records."""
    return list(studies.versions_of(study).workspace.store.manifests(asset))


def killed_in_pass(monkeypatch, asset, number):
    """Let a pass over shards die when it comes to this one, and return the lengths of what it went through."""
    measure, seen = getattr(fitted_totals, PASSES[asset]), []

    def dying(runner, sequences, *arguments):
        if len(seen) == number:
            raise _KilledError
        seen.append(len(sequences))
        measure(runner, sequences, *arguments)

    monkeypatch.setattr(fitted_totals, PASSES[asset], dying)
    return seen


@pytest.mark.parametrize("asset", PASSES)
def test_a_killed_fit_goes_on_with_the_next_shard_and_comes_to_the_same(laid_out, tmp_path, monkeypatch, asset):
    fresh = studies.lay_out(tmp_path / "fresh")
    studies.write_extra(fresh)
    studies.compute(fresh)
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "LARGEST_SHARE", np.inf)
    with monkeypatch.context() as patched:
        killed_in_pass(patched, asset, 2)
        with pytest.raises(_KilledError):
            studies.compute(laid_out)
    (left,) = stored(laid_out, asset)
    assert [key.partition for key in left.inputs if key.asset == "token_sequences"] == sorted([COAST, TRADES, EXTRA])[
        :2
    ]
    with monkeypatch.context() as patched:
        went_through = killed_in_pass(patched, asset, None)
        studies.compute(laid_out)
    assert len(went_through) == 1
    assert studies.scores(laid_out) == studies.scores(fresh), "to the last digit: the same sums in the same order"
    assert stored(laid_out, "covariances") == []
    assert len(stored(laid_out, "corrected_eigenvalues")) == 1


@pytest.mark.parametrize("asset", PASSES)
def test_layer_by_layer_a_fit_comes_to_the_same_even_if_it_is_killed(laid_out, tmp_path, monkeypatch, asset):
    fresh = studies.lay_out(tmp_path / "fresh")
    studies.write_extra(fresh)
    studies.compute(fresh)
    monkeypatch.setattr(layer_groups, "layer_groups", lambda layers, _bytes_of, _room: [[layer] for layer in layers])
    with monkeypatch.context() as patched:
        killed_in_pass(patched, asset, 2 * len((COAST, TRADES, EXTRA)) + 1)  # two layers are measured, and a shard
        with pytest.raises(_KilledError):
            studies.compute(laid_out)
    assert len(stored(laid_out, asset)) == 2
    with monkeypatch.context() as patched:
        went_through = killed_in_pass(patched, asset, None)
        studies.compute(laid_out)
    assert len(went_through) == 2 * len((COAST, TRADES, EXTRA)), "the layers that were measured are not measured again"
    assert_same_scores(studies.scores(laid_out), studies.scores(fresh))
    assert stored(laid_out, "covariances") == []
    assert len(stored(laid_out, "corrected_eigenvalues")) == 1


def test_a_checkpoint_of_other_shards_is_not_gone_on_from(laid_out, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "LARGEST_SHARE", np.inf)
    with monkeypatch.context() as patched:
        killed_in_pass(patched, "covariances", 2)
        with pytest.raises(_KilledError):
            studies.compute(laid_out)
    first = sorted([COAST, TRADES, EXTRA])[0]
    (laid_out.parent / "corpus" / first).unlink()
    with monkeypatch.context() as patched:
        went_through = killed_in_pass(patched, "covariances", None)
        studies.compute(laid_out)
    assert len(went_through) == 2
    assert studies.compute(laid_out) == []


def test_a_checkpoint_of_another_draw_is_not_gone_on_from(laid_out, monkeypatch):
    """The share that is drawn depends on the size of the whole corpus, of which a checkpoint knows the first shards."""
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "LARGEST_SHARE", np.inf)
    studies.write_study(laid_out.parent, curvature={"fit_sequences": 12})
    with monkeypatch.context() as patched:
        killed_in_pass(patched, "covariances", 2)
        with pytest.raises(_KilledError):
            studies.compute(laid_out)
    assert len(stored(laid_out, "covariances")) == 1
    studies.write_jsonl(laid_out.parent / "corpus" / "zebra.jsonl", [{"text": f"Zebra {n} grazes."} for n in range(9)])
    with monkeypatch.context() as patched:
        went_through = killed_in_pass(patched, "covariances", None)
        studies.compute(laid_out)
    assert len(went_through) == 4
    assert stored(laid_out, "covariances") == []


def test_a_checkpoint_is_not_taken_for_the_result_of_fewer_shards(laid_out, monkeypatch):
    """Nor does `status` take it for an earlier version, nor `gc` for garbage while a run would go on from it."""
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "LARGEST_SHARE", np.inf)
    with monkeypatch.context() as patched:
        killed_in_pass(patched, "covariances", 2)
        with pytest.raises(_KilledError):
            studies.compute(laid_out)
    versions = studies.versions_of(laid_out)
    (state,) = next(state for state in plan(versions) if state.asset.name == "covariances").partitions
    assert (state.state, state.cause) == ("missing", "was never computed")
    assert collect(versions.workspace, keep=0).removed == []
    assert len(stored(laid_out, "covariances")) == 1
    (laid_out.parent / "corpus" / sorted([COAST, TRADES, EXTRA])[2]).unlink()
    with monkeypatch.context() as patched:
        went_through = killed_in_pass(patched, "covariances", None)
        studies.compute(laid_out)
    assert went_through == [], "both shards are in the checkpoint"
    assert stored(laid_out, "covariances") == []
    assert studies.compute(laid_out) == []


def test_a_checkpoint_that_no_run_would_go_on_from_is_garbage(laid_out, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "LARGEST_SHARE", np.inf)
    with monkeypatch.context() as patched:
        killed_in_pass(patched, "covariances", 2)
        with pytest.raises(_KilledError):
            studies.compute(laid_out)
    (left,) = stored(laid_out, "covariances")
    studies.write_study(laid_out.parent, curvature={"seed": 1})
    assert left.key in collect(studies.versions_of(laid_out).workspace, keep=5).removed
    assert stored(laid_out, "covariances") == []


def test_no_checkpoint_is_written_of_what_takes_seconds(laid_out, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoints.Checkpoints, "save", lambda *_: saved.append(1))
    studies.compute(laid_out)
    assert saved == []


def test_covariances_are_not_kept_once_the_eigenvectors_are_known(study):
    versions = studies.versions_of(study)
    asset = asset_graph()["covariances"]
    key = versions.key(asset, Partition())
    assert versions.stands(asset, Partition())
    assert not versions.holds(key)
    manifest = versions.workspace.store.manifest(key)
    assert manifest is not None, "its manifest is kept for the lineage"
    assert manifest.summary["fitted_sequences"] == 17


def test_covariances_come_back_if_the_eigenvectors_are_lost(study):
    scores = studies.scores(study)
    versions = studies.versions_of(study)
    generation = studies.artifact(study, "eigenbases")
    versions.workspace.store.mark_damaged(generation.folder, [], "a sector is unreadable")
    assert studies.compute(study) == ["covariances", "eigenbases"]
    assert studies.scores(study) == scores
    assert stored(study, "covariances") == []
