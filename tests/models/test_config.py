"""What a model's config.json may not decide: which compiled code transformers fetches and runs."""

import json

import pytest
import torch
from transformers.integrations import hub_kernels

from influence_assets.models.config import BUILT_IN, read_config
from influence_assets.models.loading import load_model
from tests import studies

NAMED = [
    {"_attn_implementation": "someone/kernel"},
    {"attn_implementation": "someone/kernel@main:attention"},
    {"attn_implementation": "flash_attention_2"},
    {"_experts_implementation": "someone/kernel"},
    {"experts_implementation": "deepgemm"},
    {"attn_implementation": "someone/kernel", "experts_implementation": "sonicmoe"},
]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("named", NAMED)
def test_no_kernel_is_fetched_whatever_the_configuration_names(tmp_path, monkeypatch, named, architecture):
    def fetched(*_arguments, **_options):
        raise AssertionError("a kernel is asked for")

    for name in ("load_and_register_attn_kernel", "lazy_load_kernel", "get_kernel"):
        monkeypatch.setattr(hub_kernels, name, fetched, raising=False)
    studies.network(architecture, vocabulary=50).save_pretrained(tmp_path)
    plain = load_model(tmp_path, dtype="float64", device="cpu")
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | named))
    loaded = load_model(tmp_path, dtype="float64", device="cpu")
    assert loaded.config._attn_implementation == plain.config._attn_implementation
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(tokens).logits, plain(tokens).logits)


@pytest.mark.parametrize("named", BUILT_IN)
def test_a_built_in_implementation_is_kept(tmp_path, named):
    studies.network("gpt2", vocabulary=50).save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"attn_implementation": named}))
    assert read_config(tmp_path)._attn_implementation == named
