"""Which matrices of words are attributed, and which are refused by name."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from influence_assets.capture.model_shape import model_shape
from influence_assets.capture.rehearsal import rehearse
from influence_assets.errors import InputError
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.models.layers.selection import select_modules
from tests import adapters, cases


def named(model, modules):
    return {layer.name: layer.outputs for layer in select_modules(model, modules)}


@pytest.mark.parametrize("linear", ["mlp", "linear"])
@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("gpt2", {"transformer.wte": "words"}),
        ("llama_tied", {"model.embed_tokens": "words"}),
        ("llama", {"model.embed_tokens": "looked_up", "lm_head": "words"}),
        ("gemma2", {"model.embed_tokens": "words"}),
    ],
)
def test_words_are_added_to_the_linear_layers(architecture, words, linear):
    model = (cases.ARCHITECTURES | cases.SCALED_LOGITS)[architecture]()
    alone, both = named(model, linear), named(model, f"{linear}+embedding")
    assert named(model, "embedding") == words
    assert both == alone | words
    assert set(alone.values()) == {"factor"}
    order = [name for name, _ in model.named_modules()]
    assert sorted(both, key=order.index) == list(both)


def test_a_pattern_brings_the_embedding_with_a_head_that_is_the_same_matrix():
    assert named(cases.gpt2(), ["transformer.wte"]) == {"transformer.wte": "words"}
    assert named(cases.llama(), ["*.embed_tokens"]) == {"model.embed_tokens": "looked_up"}
    assert named(cases.llama(), ["lm_head"]) == {"lm_head": "factor"}, "a linear layer as any other"


def test_embeddings_of_positions_are_refused():
    with pytest.raises(InputError, match=r"no layer rule covers transformer\.wpe \(Embedding\)"):
        select_modules(cases.gpt2(), ["transformer.w?e"])


class Shifted(nn.Embedding):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) + 1


@pytest.mark.parametrize("modules", ["embedding", ["*.embed_tokens"]])
def test_an_embedding_that_computes_something_else_is_refused(modules):
    model = cases.llama()
    model.set_input_embeddings(cases.frozen(Shifted(cases.VOCABULARY, 8)))
    with pytest.raises(InputError, match=r"no layer rule covers .*Shifted"):
        select_modules(model, modules)


def test_a_matrix_that_a_third_module_has_too_is_refused():
    model = cases.llama(tied=True)
    model.model.another = nn.Linear(8, cases.VOCABULARY, bias=False)
    model.model.another.weight = model.lm_head.weight
    with pytest.raises(InputError, match=r"weight of model\.embed_tokens is shared by .*model\.another"):
        select_modules(model, "embedding")


def test_a_matrix_that_is_used_where_no_rule_sees_it_is_refused():
    """The rehearsal compares its gradient with autograd's."""
    model = cases.llama(tied=True)
    block = model.model.layers[0].mlp
    once, W = block.forward, model.lm_head.weight
    block.forward = lambda x: once(x) + 0.1 * (x @ W.T) @ W
    layers = select_modules(model, "embedding")
    with pytest.raises(InputError, match=r"because its weights are used elsewhere too: model\.embed_tokens"):
        rehearse(model, layers)


@pytest.mark.parametrize("fake", [True, False])
def test_an_embedding_that_is_scaled_where_it_is_looked_up_is_one(fake):
    """Also where tensors have no data, as when a run is planned."""
    config = cases.gemma2().config
    with FakeTensorMode() if fake else nullcontext():
        model = AutoModelForCausalLM.from_config(config)
        assert named(model, "embedding") == {"model.embed_tokens": "words"}


@pytest.mark.parametrize("modules", ["mlp", "linear"])
def test_beside_an_adapter_only_its_matrices_are_attributed(modules):
    model = cases.llama()
    adapters.add(model)
    assert named(model, f"{modules}+embedding") == named(model, modules)
    with pytest.raises(InputError, match="'embedding' matches no linear layer"):
        select_modules(model, "embedding")


def test_the_forecast_knows_its_shape_and_refuses_a_low_rank():
    config = cases.gpt2().config
    shape = model_shape(config, "float32", ["transformer.wte", "*.mlp.c_fc"], tokens=8)
    assert [(layer.d_out, layer.d_in) for layer in shape.layers] == [(cases.VOCABULARY, 8), (32, 9), (32, 9)]
    assert shape.layers[0].factor_widths == [8], "there is no factor S"
    with pytest.raises(InputError, match=r"curvature\.rank: there is no form of low rank for .* transformer\.wte"):
        model_shape(config, "float32", ["transformer.wte"], tokens=8, form=CurvatureForm(rank=2))
