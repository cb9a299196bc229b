"""A computation over many shards that dies goes on from its last checkpoint, and comes to the same."""

from types import SimpleNamespace

import numpy as np
import pytest

from influence_assets.assets import asset_graph
from influence_assets.capture import fitted_totals, layer_groups
from influence_assets.engine import checkpoints
from influence_assets.engine.partitions import Partition
from influence_assets.engine.plan import plan
from influence_assets.maths import range_finder
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.upkeep.garbage import collect
from tests import studies
from tests.closeness import assert_same_scores
from tests.studies import COAST, EXTRA, TRADES

TOTALS = {
    "covariances": fitted_totals.FittedCovariances,
    "corrected_eigenvalues": fitted_totals.FittedCorrections,
}
IN_ORDER = sorted([COAST, TRADES, EXTRA])


class _KilledError(BaseException):
    """In the place of the signal that would end the process."""


@pytest.fixture
def curvature():
    """The study's settings of curvature."""
    return {}


@pytest.fixture
def laid_out(tmp_path, curvature):
    """A study of three shards, of which nothing is computed."""
    study = studies.lay_out(tmp_path, curvature=curvature)
    studies.write_extra(study)
    return study


@pytest.fixture
def scores(tmp_path, curvature):
    """The scores of the same study, computed at one go."""
    study = studies.lay_out(tmp_path / "at one go", curvature=curvature)
    studies.write_extra(study)
    studies.compute(study)
    return studies.scores(study)


@pytest.fixture
def after_each_shard(monkeypatch):
    """A checkpoint is written after each shard, as where each takes minutes."""
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "LARGEST_SHARE", np.inf)


@pytest.fixture
def fit(monkeypatch):
    """Computes a study, and returns how many shards went into totals; or dies when these come to a shard."""

    def fit(study, asset, *, dies_at=None):
        totals, went_in = TOTALS[asset], []
        add = totals.add

        def counting(self, sequences):
            if len(went_in) == dies_at:
                raise _KilledError
            went_in.append(len(sequences))
            add(self, sequences)

        with monkeypatch.context() as patched:
            patched.setattr(totals, "add", counting)
            if dies_at is None:
                studies.compute(study)
            else:
                with pytest.raises(_KilledError):
                    studies.compute(study)
        return len(went_in)

    return fit


def stored(study, asset):
    """The manifests of what is stored of an asset, without records."""
    return list(studies.versions_of(study).workspace.store.manifests(asset))


def assert_nothing_is_left(study):
    """No checkpoint is stored, and everything stands."""
    assert stored(study, "covariances") == []
    assert len(stored(study, "corrected_eigenvalues")) == 1
    assert studies.compute(study) == []


@pytest.fixture
def sketched(monkeypatch):
    """Factors of these narrow layers are sketched, as those of wide ones are."""
    monkeypatch.setattr(range_finder, "OVERSAMPLING", (1, 2))


@pytest.mark.usefixtures("after_each_shard", "sketched")
@pytest.mark.parametrize("curvature", [{}, pytest.param({"rank": 3}, marks=pytest.mark.slow)], ids=["whole", "low"])
@pytest.mark.parametrize("asset", TOTALS)
def test_a_killed_fit_goes_on_with_the_next_shard_and_comes_to_the_same(laid_out, scores, fit, asset):
    fit(laid_out, asset, dies_at=2)
    (left,) = stored(laid_out, asset)
    assert [key.partition for key in left.inputs if key.asset == "token_sequences"] == IN_ORDER[:2]
    assert fit(laid_out, asset) == 1
    assert studies.scores(laid_out) == scores, "to the last digit: the same sums in the same order"
    assert_nothing_is_left(laid_out)


@pytest.mark.slow
@pytest.mark.parametrize("asset", TOTALS)
def test_layer_by_layer_a_fit_comes_to_the_same_even_if_it_is_killed(laid_out, scores, fit, monkeypatch, asset):
    monkeypatch.setattr(layer_groups, "layer_groups", lambda layers, _bytes_of, _room: [[layer] for layer in layers])
    fit(laid_out, asset, dies_at=2 * len(IN_ORDER) + 1)  # two layers are measured, and a shard
    assert len(stored(laid_out, asset)) == 2
    assert fit(laid_out, asset) == 2 * len(IN_ORDER), "the layers that were measured are not measured again"
    assert_same_scores(studies.scores(laid_out), scores)
    assert_nothing_is_left(laid_out)


@pytest.mark.usefixtures("after_each_shard")
def test_a_checkpoint_of_other_shards_is_not_gone_on_from(laid_out, fit):
    fit(laid_out, "covariances", dies_at=2)
    (laid_out.parent / "corpus" / IN_ORDER[0]).unlink()
    assert fit(laid_out, "covariances") == 2
    assert_nothing_is_left(laid_out)


@pytest.mark.usefixtures("after_each_shard")
def test_a_checkpoint_of_another_draw_is_not_gone_on_from(laid_out, fit):
    """The share that is drawn depends on the size of the whole corpus, of which a checkpoint knows the first shards."""
    studies.write_study(laid_out.parent, curvature={"fit_sequences": 12})
    fit(laid_out, "covariances", dies_at=2)
    assert len(stored(laid_out, "covariances")) == 1
    studies.write_jsonl(laid_out.parent / "corpus" / "zebra.jsonl", [{"text": f"Zebra {n} grazes."} for n in range(9)])
    assert fit(laid_out, "covariances") == 4
    assert_nothing_is_left(laid_out)


@pytest.mark.usefixtures("after_each_shard")
def test_a_checkpoint_is_not_taken_for_the_result_of_fewer_shards(laid_out, fit):
    """Nor does `status` take it for an earlier version, nor `gc` for garbage while a run would go on from it."""
    fit(laid_out, "covariances", dies_at=2)
    versions = studies.versions_of(laid_out)
    (state,) = next(state for state in plan(versions) if state.asset.name == "covariances").partitions
    assert (state.state, state.cause) == ("missing", "was never computed")
    assert collect(versions.workspace, keep=0).removed == []
    assert len(stored(laid_out, "covariances")) == 1
    (laid_out.parent / "corpus" / IN_ORDER[2]).unlink()
    assert fit(laid_out, "covariances") == 0, "both shards are in the checkpoint"
    assert_nothing_is_left(laid_out)


@pytest.mark.usefixtures("after_each_shard")
def test_a_checkpoint_that_no_run_would_go_on_from_is_garbage(laid_out, fit):
    fit(laid_out, "covariances", dies_at=2)
    (left,) = stored(laid_out, "covariances")
    studies.write_study(laid_out.parent, curvature={"seed": 1})
    assert left.key in collect(studies.versions_of(laid_out).workspace, keep=5).removed
    assert stored(laid_out, "covariances") == []


def test_checkpoints_are_a_minute_apart_and_take_a_twentieth_of_the_time(study, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(checkpoints, "time", clock)
    store, key = studies.versions_of(study).workspace.store, ArtifactKey("covariances", None, "0" * 32)

    def writing(key, inputs):
        clock.now += 10.0  # which it takes to write
        return store.write(key, inputs=inputs, code_version="1")

    tried = checkpoints.Checkpoints(store, key, (), lambda _inputs, _part: key, writing)
    for seconds, is_due in ((59.0, False), (60.0, True)):
        clock.now = seconds
        assert tried.is_due is is_due
    tried.save(0, lambda draft: draft.summarise(layers=[]), "all of it")
    for seconds, is_due in ((70.0 + 199.0, False), (70.0 + 200.0, True)):
        clock.now = seconds
        assert tried.is_due is is_due
    tried.clear()
    assert stored(study, "covariances") == []


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
