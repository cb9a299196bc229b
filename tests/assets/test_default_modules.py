"""What is attributed if a study names no layers: the embedding too where that costs little, chosen once for a model."""

import pytest
from transformers import GPT2Config, LlamaConfig

from influence_assets.assets import language_model
from influence_assets.capture import default_modules as chooser
from influence_assets.capture.model_shape import model_shape
from influence_assets.layouts.attributed import ATTRIBUTED, modules_of
from influence_assets.study import Study
from tests import studies
from tests.closeness import assert_same_scores

DEMO = GPT2Config(vocab_size=2048, n_positions=128, n_embd=128, n_layer=3, n_head=4)
SMALL_LLAMA = LlamaConfig(
    vocab_size=16384, hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8,
    tie_word_embeddings=True,
)  # fmt: skip
APART = LlamaConfig(
    vocab_size=8192, hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8,
    tie_word_embeddings=False,
)  # fmt: skip
WIDE_VOCABULARY = GPT2Config(vocab_size=50304, n_positions=128, n_embd=64, n_layer=4, n_head=4)
WORDS = "transformer.wte"


def work(config, modules):
    """Operations of three passes over a sequence of 128 tokens, and of what is measured there."""
    shape = model_shape(config, "float32", modules, tokens=128)
    return 3 * shape.passes() + shape.covariances() + shape.statistics()


@pytest.fixture
def costs_little(monkeypatch):
    """Let the embedding of the tests' models, whose vocabulary is wide beside them, cost little."""
    chooser._chosen.cache_clear()
    monkeypatch.setattr(chooser, "MOST", 100)
    yield
    chooser._chosen.cache_clear()


@pytest.mark.parametrize(
    ("config", "expected"),
    [(DEMO, "mlp+embedding"), (SMALL_LLAMA, "mlp+embedding"), (APART, "mlp+embedding"), (WIDE_VOCABULARY, "mlp")],
    ids=["demo", "tied", "apart", "wide vocabulary"],
)
def test_the_embedding_is_attributed_where_it_costs_at_most_three_tenths_more(config, expected):
    assert chooser.default_modules(config, "float32", tokens=128) == expected
    assert (work(config, "mlp+embedding") <= 1.3 * work(config, "mlp")) == (expected == "mlp+embedding")


@pytest.mark.parametrize(
    ("curvature", "summary", "expected"),
    [
        ({}, {ATTRIBUTED: "mlp+embedding"}, "mlp+embedding"),
        ({}, {ATTRIBUTED: "mlp"}, "mlp"),
        ({}, {}, "mlp"),
        ({}, None, "mlp"),
        ({"rank": 4}, {ATTRIBUTED: "mlp+embedding"}, "mlp"),
        ({"modules": "linear"}, {ATTRIBUTED: "mlp+embedding"}, "linear"),
        ({"modules": ["*.c_fc"]}, {ATTRIBUTED: "mlp+embedding"}, ("*.c_fc",)),
    ],
)
def test_the_study_has_the_first_word_and_an_earlier_release_chose_the_mlps(tmp_path, curvature, summary, expected):
    study = Study.load(studies.write_study(tmp_path, curvature=curvature))
    assert modules_of(study, summary) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("costs_little")
def test_scores_are_those_of_a_study_that_names_these_layers(tmp_path):
    chosen, named = studies.lay_out(tmp_path / "chosen"), studies.lay_out(tmp_path / "named")
    studies.write_study(named.parent, curvature={"modules": "mlp+embedding"})
    for study in (chosen, named):
        assert set(studies.compute(study)) == studies.everything()
    assert WORDS in studies.artifact(chosen, "curvature").manifest.summary["layers"]
    settings = studies.artifact(chosen, "corrected_eigenvalues").manifest.settings
    assert settings == studies.artifact(named, "corrected_eigenvalues").manifest.settings
    assert studies.data_versions(chosen) == studies.data_versions(named)
    assert_same_scores(studies.scores(chosen), studies.scores(named))


@pytest.mark.slow
@pytest.mark.usefixtures("costs_little")
def test_the_choice_is_the_models_and_stands(study):
    """It was made when the model was stored; a new file, and another rule since then, are computed with it."""
    assert studies.compute(study) == []
    studies.write_extra(study)
    assert sorted(studies.compute(study)) == sorted(studies.of_shard(studies.EXTRA))
    assert WORDS not in studies.artifact(study, "curvature").manifest.summary["layers"]
    studies.write_model(study.parent / "model", seed=1)
    studies.compute(study)
    assert WORDS in studies.artifact(study, "curvature").manifest.summary["layers"]


@pytest.mark.slow
def test_a_store_of_an_earlier_release_keeps_its_generation_until_layers_are_named(monkeypatch, tmp_path):
    study = studies.lay_out(tmp_path, curvature={"modules": "mlp"})  # what was the default then
    with monkeypatch.context() as then:
        then.setattr(language_model, "_choice", lambda *_: {})
        studies.compute(study)
    chooser._chosen.cache_clear()
    monkeypatch.setattr(chooser, "MOST", 100)
    studies.write_study(tmp_path)
    assert studies.compute(study) == []
    before = studies.data_versions(study)
    versions = studies.versions_of(study)
    model = studies.artifact(study, "language_model")
    versions.workspace.store.mark_damaged(model.folder, [], "a sector is unreadable")
    assert "language_model" in studies.compute(study)
    assert studies.data_versions(study) == before
    assert WORDS not in studies.artifact(study, "curvature").manifest.summary["layers"]
    studies.write_study(tmp_path, curvature={"modules": "mlp+embedding"})
    assert {"covariances", "eigenbases", "curvature"} <= set(studies.compute(study))
    assert WORDS in studies.artifact(study, "curvature").manifest.summary["layers"]
    chooser._chosen.cache_clear()


@pytest.mark.slow
def test_members_attribute_what_the_first_one_does(monkeypatch, tmp_path):
    """Also members that join a store of an earlier release, whose layers are the MLPs."""
    train = {"layers": 1, "width": 16, "heads": 2, "vocabulary": 280, "epochs": 1, "batch_sequences": 4}
    model = {"path": None, "train": train, "dtype": "float32"}
    study = studies.lay_out(tmp_path, model=model, sequences={"length": 32})
    with monkeypatch.context() as then:
        then.setattr(language_model, "_choice", lambda *_: {})
        studies.compute(study)
    chooser._chosen.cache_clear()
    monkeypatch.setattr(chooser, "MOST", 100)
    studies.write_study(tmp_path, model={**model, "train": {**train, "members": 2}}, sequences={"length": 32})
    studies.compute(study)
    chooser._chosen.cache_clear()
    store = studies.versions_of(study).workspace.store
    layers = [manifest.summary["layers"] for manifest in store.manifests("curvature")]
    assert len(layers) == 2
    assert layers[0] == layers[1]
    assert WORDS not in layers[0]
