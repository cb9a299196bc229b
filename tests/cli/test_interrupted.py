"""A run that is killed: what it had trained is taken up, what it had half written is not trusted."""

import pytest

from influence_assets.models.weights import weights_hash
from tests import studies
from tests.commanding import influence, influence_process, killed

TRAIN = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 270, "epochs": 20, "batch_sequences": 2}
SECOND_SAVE = ("os.rename", "*/.training/*/state.partial", 2)


def laid_out(folder):
    """One shard and one query set, and a model to be trained for some epochs."""
    study = studies.lay_out(folder)
    (folder / "corpus" / studies.TRADES).unlink()
    (folder / "queries" / studies.SECOND).unlink()
    return studies.write_study(
        study.parent, model={"path": None, "train": TRAIN, "dtype": "float32"}, sequences={"length": 32}
    )


@pytest.fixture
def study(tmp_path):
    return laid_out(tmp_path)


@pytest.mark.soak
def test_killed_training_is_taken_up_and_ends_with_the_same_weights(study, tmp_path_factory):
    killed(influence_process("run", folder=study.parent, killed_at=SECOND_SAVE))
    assert list((study.parent / "store" / ".training").glob("*/state.safetensors"))
    assert not (study.parent / "store" / "influence.duckdb").exists()
    half_written = list((study.parent / "store" / "language_model").glob("*/.draft-*"))
    assert len(half_written) == 1
    assert "language_model" not in {m.asset for m in studies.versions_of(study).workspace.store.manifests()}

    ended = influence("run", "--study", study)
    assert ended.code == 0, ended.out + ended.err
    assert not half_written[0].exists()
    assert not list((study.parent / "store" / ".training").iterdir())
    trained = studies.artifact(study, "language_model")
    summary = trained.manifest.summary
    assert 0 < summary["resumed_from_step"] < summary["training_steps"]

    uninterrupted = laid_out(tmp_path_factory.mktemp("uninterrupted"))
    studies.compute(uninterrupted, until="language_model")
    other = studies.artifact(uninterrupted, "language_model")
    assert other.manifest.summary["resumed_from_step"] == 0
    assert weights_hash(trained.path("model"), None) == weights_hash(other.path("model"), None)
