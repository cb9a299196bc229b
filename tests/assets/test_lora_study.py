"""Whole studies of a model with a LoRA adapter, from `influence run` to SQL."""

import pytest
from transformers import AutoModelForCausalLM

from influence_assets.assets.study_sizes import StudySizes
from tests import adapters, studies
from tests.commanding import influence

LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
OWN = {f"transformer.h.{block}.{layer}" for block in (0, 1) for layer in LAYERS}
MATRICES = {f"{layer}.lora_{side}.default" for layer in OWN for side in "AB"}


def lay_out(folder, **model):
    """A study whose model is fine-tuned; relative paths are the study's own."""
    study = studies.lay_out(folder, curvature={"modules": "linear"})
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    adapters.write(base, folder / "adapter")
    studies.write_study(folder, curvature={"modules": "linear"}, model={"dtype": "float64", **model})
    return study


def modules(study):
    return set(studies.ask_sql(study, "select module_name from modules")["module_name"])


@pytest.mark.soak
def test_a_lora_study_ends_in_sql_on_either_kind_of_matrices(tmp_path):
    study = lay_out(tmp_path, path="model", adapter="adapter")
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert modules(study) == MATRICES
    of_adapter, versions = studies.scores(study), studies.data_versions(study)
    sizes = StudySizes(studies.versions_of(study))
    attributed, total = sizes.shape.gradient_numbers, sizes.shape.parameters
    stored = studies.artifact(study, "language_model").manifest.summary
    assert {layer.name for layer in sizes.shape.layers} == MATRICES
    assert (total, stored["adapter_attribution"]) == (stored["parameters"], "adapter")
    assert 0 < attributed < total
    assert influence("plan", "--study", study).code == 0

    studies.write_study(tmp_path, curvature={"modules": "linear"}, model={"dtype": "float64", "path": "adapter"})
    assert studies.data_versions(study) == versions

    merged = {"path": "adapter", "adapter_attribution": "merged"}
    studies.write_study(tmp_path, curvature={"modules": "linear"}, model={"dtype": "float64", **merged})
    assert studies.data_versions(study)["language_model"] != versions["language_model"]
    ran = influence("run", "--study", study)
    assert ran.code == 0, ran.error
    assert modules(study) == OWN
    of_merged = studies.scores(study)
    assert of_merged.keys() == of_adapter.keys()
    assert of_merged != pytest.approx(of_adapter, rel=0.01)
    assert {layer.name for layer in StudySizes(studies.versions_of(study)).shape.layers} == OWN


def test_an_adapter_beside_the_weights_stops_the_run_before_text_is_read(tmp_path):
    study = lay_out(tmp_path, path="model")
    for file in (tmp_path / "adapter").iterdir():
        file.rename(tmp_path / "model" / file.name)
    ran = influence("run", "--study", study)
    assert ran.code == 1
    assert "an adapter lies beside the weights of a model" in ran.error
    assert "name that folder as model.adapter" in ran.error
