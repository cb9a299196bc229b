"""Which layers are attributed, and which are refused by name."""

import ast
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GPT2LMHeadModel

from influence_assets.capture.covariance import covariances
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.models.dimensions import total_parameters
from influence_assets.models.layers.rule import rule_of
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
    name = r"transformer\.h\.0\.mlp\.experts \(Experts: gate_up_proj \[4, 8, 16\]\)"
    with pytest.raises(InputError, match=f"no layer rule covers {name}") as raised:
        select_modules(model, "mlp")
    assert "transformer.h.0.mlp.experts" not in {m.name for m in select_modules(model, remedy_of(raised.value))}


def remedy_of(error):
    """The patterns that an error names."""
    return ast.literal_eval(re.search(r"curvature\.modules: (\[.*\])", error.remedy).group(1))


class Lookup(nn.Module):
    """A matrix that is no linear layer, in the place of every layer of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4, 8))


def test_a_refusal_names_no_patterns_where_none_work():
    model = cases.gpt2()
    model.transformer.h = nn.ModuleList([Lookup()])
    with pytest.raises(InputError, match="No other layer of this model can be attributed") as raised:
        select_modules(model, "linear")
    assert "[]" not in str(raised.value)


def test_a_remedy_leaves_out_what_has_the_same_place_in_another_block():
    model = cases.gpt2()
    model.transformer.h[0].mlp.c_fc = Lookup()
    with pytest.raises(InputError, match=r"no layer rule covers transformer\.h\.0\.mlp\.c_fc \(Lookup\)") as raised:
        select_modules(model, "linear")
    selected = {layer.name for layer in select_modules(model, remedy_of(raised.value))}
    everything = {layer.name for layer in select_modules(cases.gpt2(), "linear")}
    assert selected == everything - {"transformer.h.0.mlp.c_fc"}


def test_a_convolution_is_not_said_to_be_experts():
    model = cases.gpt2()
    model.transformer.h[0].mlp.conv = nn.Conv1d(8, 8, 2)
    with pytest.raises(InputError, match=r"mlp\.conv \(Conv1d: weight \[8, 8, 2\]\)") as raised:
        select_modules(model, "mlp")
    assert "expert" not in str(raised.value)


@pytest.mark.parametrize("modules", ["mlp", "linear"])
@pytest.mark.parametrize(("architecture", "block", "experts"), [("mixtral", 0, 4), ("qwen2_moe", 1, 4)])
def test_each_matrix_of_each_expert_is_a_layer(architecture, block, experts, modules):
    model = cases.EXPERTS[architecture]()
    selected = [layer.name for layer in select_modules(model, modules)]
    prefix = f"model.layers.{block}.mlp.experts."
    expected = [f"{prefix}{e}.{matrix}" for e in range(experts) for matrix in ("gate_up_proj", "down_proj")]
    assert [name for name in selected if name.startswith(prefix)] == expected
    assert any("self_attn" in name for name in selected) is (modules == "linear")
    assert not any(name.endswith(".gate") for name in selected), "routers are left out"


def test_experts_beside_the_mlp_are_not_left_out_in_silence():
    model = cases.llama()
    experts = cases.mixtral().model.layers[0].mlp.experts
    model.model.layers[0].beside = experts
    names = {layer.name for layer in select_modules(model, "mlp")}
    assert "model.layers.0.beside.3.down_proj" in names


class Packed(nn.Linear):
    """A linear layer whose weight lies in a packing of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.flip(0), self.bias)


class ByHand(nn.Linear):
    """A linear layer that multiplies in its own words, as Falcon's does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0.5


class Rounded(nn.Linear):
    """Its values are those of a linear layer where weights are whole, its gradients are not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight + (self.weight.round() - self.weight).detach(), self.bias)


class Frozen(nn.Linear):
    """The right values, without a gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach())


class WithMore(nn.Linear):
    """Another parameter, which its values depend on only at times."""

    def __init__(self, *sizes, **settings) -> None:
        super().__init__(*sizes, **settings)
        self.adapter = nn.Parameter(torch.zeros(3, 3))


SUBCLASSES = {ByHand: True, Packed: False, Scaled: False, Rounded: False, Frozen: False, WithMore: False}


@pytest.mark.parametrize(("kind", "is_linear"), SUBCLASSES.items())
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fake", [True, False])
def test_a_subclass_is_covered_if_it_computes_the_same(kind, is_linear, bias, fake):
    """Also where tensors have no data, as when a run is planned."""
    with FakeTensorMode() if fake else nullcontext():
        module = kind(8, 12, bias=bias)
    before = dict(module.named_parameters())
    assert (rule_of(module) is not None) is is_linear
    assert {name: id(p) for name, p in module.named_parameters()} == {name: id(p) for name, p in before.items()}


def test_linear_does_not_leave_out_in_silence_what_it_has_no_rule_for():
    model = cases.llama()
    block = model.model.layers[1].mlp
    block.up_proj = Packed(8, 12, bias=False)
    with pytest.raises(InputError, match=r"no layer rule covers model\.layers\.1\.mlp\.up_proj \(Packed\)"):
        select_modules(model, "linear")
