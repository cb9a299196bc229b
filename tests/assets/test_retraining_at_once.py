"""Models that are trained again at once, as on a device, are those that are trained in turn."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from influence_assets.assets import open_workspace, retraining_at_once
from influence_assets.assets.retraining_at_once import room
from influence_assets.engine.bring_up import Result, bring_up_to_date
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.models import training_together
from influence_assets.study import Study
from influence_assets.upkeep.garbage import collect
from tests import studies

RECIPE = {"epochs": 2, "batch_sequences": 2, "seed": 3}
TRAINED = {
    "path": None,
    "dtype": "float32",
    "train": {"layers": 1, "width": 16, "heads": 2, "vocabulary": 300, **RECIPE},
}
TUNED = {"tuned": {"base": "base", "learning_rate": 0.003, **RECIPE}}
DRAWN = {"subsets": 4, "seeds": 1}
OF_PROCESSOR = frozenset({"cpu"})
KILLED_BETWEEN_TWO = """
import sys
from pathlib import Path
from influence_assets.assets import retraining_at_once
from tests import dying, studies
from tests.assets.test_retraining_at_once import requested
retraining_at_once.KINDS_OF_DEVICE = frozenset({"cpu"})
dying.kill_at("os.rename", "*/retrained_models/*/.draft-*", 2)
studies.compute(Path(sys.argv[1]), requested=requested(Path(sys.argv[1])))
"""


def requested(study):
    return {"retrained_models": [Partition(name=name) for name in Study.load(study).evaluation.retrainings()[:3]]}


def laid_out(folder, kind):
    if kind == "trained":
        study = studies.lay_out(folder, model=TRAINED, evaluation=DRAWN, sequences={"length": 32})
    else:
        studies.write_model(folder / "base", architecture="llama", seed=1)
        study = studies.lay_out(folder, architecture="llama", model=TUNED, evaluation=DRAWN)
    studies.compute(study)
    return study


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study that trains its model, without retrained models."""
    return laid_out(tmp_path_factory.mktemp("trained"), "trained")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A study of a fine-tuned model without dropout, without retrained models."""
    return laid_out(tmp_path_factory.mktemp("tuned"), "tuned")


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(retraining_at_once, "KINDS_OF_DEVICE", OF_PROCESSOR)


def run(study):
    result = Result()
    versions = Versions(open_workspace(Study.load(study), requested(study)), "published")
    list(bring_up_to_date(versions, studies._Until(None), result))
    return result


def models(study):
    """The artifacts of the retrained models that are stored, by partition."""
    versions = studies.versions_of(study)
    asset = versions.workspace.graph["retrained_models"]
    return [versions.workspace.store.open(versions.key(asset, place)) for place in versions.partitions(asset)]


def outcomes(study):
    return {
        (model.manifest.key.partition, query_id): value
        for model in models(study)
        for query_id, value in model.table("outcomes").select("query_id", "log_probability_nats").collect().rows()
    }


def figures(study, *names):
    return [tuple(model.manifest.summary.get(name) for name in names) for model in models(study)]


def assert_nothing_is_left_over(study):
    store = study.parent / "store"
    assert list(store.glob("retrained_models/*/.draft-*")) == []
    assert list(store.glob(".training/*")) == []


@pytest.mark.parametrize("kind", ["trained", pytest.param("tuned", marks=pytest.mark.slow)])
def test_they_are_those_that_are_trained_in_turn(kind, request, tmp_path, monkeypatch):
    study = request.getfixturevalue(kind)
    in_turn, together = (studies.copied(study, tmp_path / name) for name in ("in turn", "together"))
    studies.compute(in_turn, requested=requested(in_turn))
    monkeypatch.setattr(retraining_at_once, "KINDS_OF_DEVICE", OF_PROCESSOR)
    computed = studies.compute(together, requested=requested(together))
    assert len([name for name in computed if name.startswith("retrained_models")]) == 3
    assert figures(in_turn, "trained_at_once") == [(None,)] * 3
    assert figures(together, "trained_at_once") == [(3,)] * 3
    assert outcomes(together) == pytest.approx(outcomes(in_turn), abs=1e-4)
    assert len(outcomes(in_turn)) == 3 * 3
    names = "seed", "subset", "training_sequences", "training_steps", "units_left_out"
    assert figures(together, *names) == figures(in_turn, *names)
    losses = [loss for (loss,) in figures(in_turn, "final_loss_nats")]
    assert [loss for (loss,) in figures(together, "final_loss_nats")] == pytest.approx(losses, abs=1e-4)
    assert [m.manifest.key for m in models(together)] == [m.manifest.key for m in models(in_turn)]
    assert_nothing_is_left_over(together)


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_a_kill_between_two_of_a_group_loses_what_is_not_stored(trained, tmp_path):
    whole, cut = (studies.copied(trained, tmp_path / name) for name in ("whole", "cut"))
    studies.compute(whole, requested=requested(whole))
    script = [sys.executable, "-c", KILLED_BETWEEN_TWO, str(cut)]
    killed = subprocess.run(
        script, start_new_session=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(models(cut)) == 1
    studies.compute(cut, requested=requested(cut))
    assert sorted(figures(cut, "trained_at_once")) == [(2,), (2,), (3,)]
    assert outcomes(cut) == pytest.approx(outcomes(whole), abs=1e-4)
    assert_nothing_is_left_over(cut)


@pytest.mark.usefixtures("at_once")
def test_groups_are_of_about_one_size(trained, tmp_path, monkeypatch):
    study = studies.copied(trained, tmp_path / "copy")
    monkeypatch.setattr(retraining_at_once, "MOST_MODELS", 2)
    studies.compute(study, requested=requested(study))
    assert sorted(figures(study, "trained_at_once"), key=str) == [(2,), (2,), (None,)]


@pytest.mark.usefixtures("at_once")
def test_where_memory_does_not_suffice_halves_are_trained(trained, tmp_path, monkeypatch):
    study, sizes, train = studies.copied(trained, tmp_path / "copy"), [], training_together.train_together

    def as_if_memory_were_short(models, *arguments, **options):
        sizes.append(len(models))
        if len(models) > 1:
            raise torch.OutOfMemoryError
        return train(models, *arguments, **options)

    monkeypatch.setattr(training_together, "train_together", as_if_memory_were_short)
    assert run(study).failed_passes == []
    assert sizes == [3, 1, 2, 1, 1]
    assert len(models(study)) == 3


@pytest.mark.usefixtures("at_once")
def test_what_cannot_be_trained_at_once_is_trained_in_turn(trained, tmp_path, monkeypatch):
    study = studies.copied(trained, tmp_path / "copy")

    def refuse(*_, **__):
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(training_together, "train_together", refuse)
    result = run(study)
    (failed,) = result.failed_passes
    assert str(failed) == (
        "Computing 3 partitions of retrained_models at once failed (no batching rule). Each is computed by itself, "
        "which takes longer."
    )
    assert result.failures == []
    assert figures(study, "trained_at_once") == [(None,)] * 3


def test_dropout_and_processors_train_in_turn(tmp_path, trained, monkeypatch):
    in_turn = (1, 0)
    assert room(studies.versions_of(trained)) == in_turn
    monkeypatch.setattr(retraining_at_once, "KINDS_OF_DEVICE", OF_PROCESSOR)
    models, needed = room(studies.versions_of(trained))
    assert 1 < models <= retraining_at_once.MOST_MODELS
    monkeypatch.setattr(retraining_at_once, "MOST_MODELS", 2)
    assert room(studies.versions_of(trained)) == (2, 2 * needed // models)
    studies.write_model(tmp_path / "base", seed=1)  # a GPT-2 with the usual dropout
    study = studies.lay_out(tmp_path, model=TUNED)
    assert room(studies.versions_of(study)) == in_turn
    shutil.rmtree(tmp_path / "base")
    assert room(studies.versions_of(study)) == in_turn


def test_what_trainings_left_goes_unless_a_run_would_go_on_with_it(trained, tmp_path):
    study = studies.copied(trained, tmp_path / "copy")
    workspace = open_workspace(Study.load(study))
    versions = Versions(workspace)
    key = versions.key(workspace.graph["retrained_models"], requested(study)["retrained_models"][0])
    due, other, foreign = workspace.scratch(key), workspace.trainings / ("0" * 32), workspace.trainings / "thesis"
    for folder in (due, other, foreign):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "weights").write_bytes(b"1234567")
    assert collect(workspace, keep=1, dry_run=True).bytes == 7
    assert other.exists()
    assert collect(workspace, keep=1).bytes == 7
    assert (due.exists(), other.exists(), foreign.exists()) == (True, False, True)
    studies.write_jsonl(study.parent / "corpus" / studies.COAST, studies.COAST_ROWS[1:])
    studies.compute(study)
    collect(open_workspace(Study.load(study)), keep=1)
    assert (due.exists(), foreign.exists()) == (False, True)
