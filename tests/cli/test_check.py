"""`influence check`: a table, advice, and an exit code."""

import pytest
from transformers import BertConfig, BertLMHeadModel

from influence_assets.layouts import self_test
from tests import studies
from tests.commanding import influence


@pytest.mark.parametrize("packing", ["packed", "one_document"])
def test_a_sound_study_passes(tmp_path, packing):
    study = studies.lay_out(tmp_path, sequences={"packing": packing}, model={"dtype": "float32"})
    checked = influence("check", "--study", study)
    assert checked.code == 0, checked.error + checked.out
    assert checked.out.count(" good") >= 8
    assert "wrong" not in checked.out
    assert not list((tmp_path / "store").glob("[!.]*/*")), "nothing is computed"


def test_a_model_that_is_not_causal_fails_with_advice(tmp_path):
    study = studies.lay_out(tmp_path, curvature={"modules": "linear"}, model={"dtype": "float32"})
    vocabulary = studies.tokenizer().get_vocab_size()
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    config = BertConfig(vocab_size=vocabulary, max_position_embeddings=studies.CONTEXT, initializer_range=0.3, **sizes)
    BertLMHeadModel(config).save_pretrained(tmp_path / "model")
    checked = influence("check", "--study", study)
    assert checked.code == 1
    assert "wrong" in checked.out
    assert "is_decoder" in checked.out


def test_a_model_that_does_not_fit_in_float64_is_an_error(tmp_path, monkeypatch):
    study = studies.lay_out(tmp_path)
    monkeypatch.setattr(self_test, "available_memory", lambda: 1000)
    assert "in float64, to which it is compared, the model takes" in influence("check", "--study", study).error


def test_a_model_that_is_still_to_be_trained_is_an_error(tmp_path):
    study = studies.lay_out(tmp_path, model={"path": None, "train": {"layers": 1, "width": 8, "heads": 1}})
    checked = influence("check", "--study", study)
    assert checked.code == 1
    assert "the model is not trained yet" in checked.error
