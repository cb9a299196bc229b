"""Which layers are attributed, and which are refused by name."""

import ast
import re

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

from influence_assets.capture.covariance import covariances
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.models.dimensions import total_parameters
from influence_assets.models.layers.selection import select_modules
from tests import cases

MLP = {"gpt2": ["mlp.c_fc", "mlp.c_proj"], "neox": ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]}
LLAMA_LIKE = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
SUPPORTED = cases.ARCHITECTURES | cases.SCALED_LOGITS


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_mlp_selects_both_blocks_mlp_matrices(architecture):
    selected = select_modules(SUPPORTED[architecture](), "mlp")
    assert [linear.name.split(".", 3)[-1] for linear in selected] == MLP.get(architecture, LLAMA_LIKE) * 2


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_linear_adds_attention_and_leaves_the_output_head(architecture):
    model = SUPPORTED[architecture]()
    selected = {linear.name for linear in select_modules(model, "linear")}
    assert {linear.name for linear in select_modules(model, "mlp")} < selected
    assert any("att" in name for name in selected)
    assert not any("head" in name or "embed" in name for name in selected)


def test_attributed_parameters_are_weights_and_biases():
    model = cases.gpt2()
    selected = select_modules(model, "mlp")
    assert sum(linear.parameters for linear in selected) == 2 * (8 * 32 + 32 + 32 * 8 + 8)
    assert total_parameters(model) == sum(p.numel() for p in set(model.parameters()))


def test_patterns_that_match_nothing_are_refused_with_what_there_is():
    with pytest.raises(InputError, match=r"curvature\.modules: '\*\.ffw\.\*' matches no linear layer.*mlp\.c_fc"):
        select_modules(cases.gpt2(), ["*.mlp.*", "*.ffw.*"])


def test_shared_weights_are_refused():
    model = cases.gpt2()
    assert isinstance(model, GPT2LMHeadModel)
    with pytest.raises(InputError, match=r"weight of lm_head is shared by lm_head, transformer\.wte"):
        select_modules(model, ["lm_head"])
    first, second = (block.mlp for block in model.transformer.h)
    second.c_fc.weight = first.c_fc.weight
    with pytest.raises(InputError, match="is shared by"):
        select_modules(model, "mlp")


def test_one_module_in_two_blocks_is_refused():
    model = cases.gpt2()
    model.transformer.h[1].mlp = model.transformer.h[0].mlp
    with pytest.raises(InputError, match="is shared by"):
        select_modules(model, "mlp")


def test_a_module_called_twice_in_a_pass_is_refused():
    model = cases.gpt2()
    block = model.transformer.h[0].mlp
    once = block.forward
    block.forward = lambda x: once(once(x))
    runner = Runner(model, select_modules(model, "mlp"), 4)
    with pytest.raises(InputError, match="called more than once"):
        covariances(runner, cases.sequences(), None)


def test_a_module_that_takes_no_part_is_refused():
    model = cases.gpt2()
    model.transformer.h[1].mlp.forward = torch.zeros_like
    runner = Runner(model, select_modules(model, "mlp"), 4)
    with pytest.raises(InputError, match="took no part"):
        covariances(runner, cases.sequences(), None)


class Experts(nn.Module):
    """Mixture-of-experts weights as one fused tensor, as transformers 5 keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(4, 8, 16))


def test_layers_without_a_rule_are_refused_by_name():
    model = cases.gpt2()
    model.transformer.h[0].mlp.experts = Experts()
    with pytest.raises(InputError, match=r"no layer rule covers transformer\.h\.0\.mlp\.experts \(Experts\)"):
        select_modules(model, "mlp")


ATTENTION = {f"model.layers.{block}.self_attn.{part}_proj" for block in (0, 1) for part in "qkvo"}


@pytest.mark.parametrize("modules", ["mlp", "linear"])
@pytest.mark.parametrize(
    ("architecture", "block", "beside"),
    [("mixtral", 0, set()), ("qwen2_moe", 1, {f"model.layers.0.{name}" for name in LLAMA_LIKE})],
)
def test_mixtures_of_experts_are_refused_by_name_and_the_rest_can_be_asked_for(architecture, block, beside, modules):
    model = cases.EXPERTS[architecture]()
    with pytest.raises(InputError) as raised:
        select_modules(model, modules)
    assert f"model.layers.{block}.mlp.experts ({type(model.model.layers[block].mlp.experts).__name__})" in str(
        raised.value
    )
    assert "mixture of experts" in raised.value.problem
    patterns = ast.literal_eval(re.search(r"curvature\.modules: (\[.*\])", raised.value.remedy).group(1))
    assert {linear.name for linear in select_modules(model, patterns)} == ATTENTION | beside


def test_a_shared_expert_is_refused_when_it_is_called():
    model = cases.qwen2_moe()
    runner = Runner(model, select_modules(model, ["*.shared_expert.*"]), 4)
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.shared_expert\.\w+ does not see whole sequences"):
        covariances(runner, cases.sequences(), None)


class Packed(nn.Linear):
    """A linear layer whose weight may lie in a packing of its own."""


def test_linear_does_not_leave_out_in_silence_what_it_has_no_rule_for():
    model = cases.llama()
    block = model.model.layers[1].mlp
    block.up_proj = Packed(8, 12, bias=False)
    with pytest.raises(InputError, match=r"no layer rule covers model\.layers\.1\.mlp\.up_proj \(Packed\)"):
        select_modules(model, "linear")
