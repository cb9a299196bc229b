"""What a rehearsal refuses before a corpus is read, and that it leaves the model as it was."""

import ast
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel

from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.rehearsal import rehearse
from influence_assets.capture.runner import Runner
from influence_assets.errors import InputError
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.architectures.tiny import tiny
from tests.tiers import slow_but

EVERY = cases.ARCHITECTURES | cases.SCALED_LOGITS | cases.EXPERTS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("architecture", EVERY)
def test_a_sound_model_passes_and_is_left_as_it_was(architecture, dtype):
    model = EVERY[architecture]().to(dtype)
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    rehearse(model, select_modules(model, "linear"))
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


def bert(*, is_decoder):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=cases.VOCABULARY, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=cases.CONTEXT, is_decoder=is_decoder,
    )  # fmt: skip
    return cases.frozen(BertLMHeadModel(config))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_that_sees_what_follows_is_refused(dtype):
    model = bert(is_decoder=False).to(dtype)
    with pytest.raises(InputError, match=r"model\.path: BertLMHeadModel is not causal.*is_decoder"):
        rehearse(model, select_modules(model, "linear"))
    model = bert(is_decoder=True).to(dtype)
    rehearse(model, select_modules(model, "linear"))


class LooksAhead(nn.Module):
    """An attention's output plus a trace of the next token's."""

    def __init__(self, inner, trace):
        super().__init__()
        self.inner, self.trace = inner, trace

    def forward(self, *inputs, **named):
        output, *rest = self.inner(*inputs, **named)
        return (output + self.trace * torch.roll(output, -1, dims=1), *rest)


@pytest.mark.parametrize("trace", [1.0, 1e-3])
def test_a_trace_of_the_next_token_is_seen(trace):
    model = cases.gpt2()
    model.transformer.h[0].attn = LooksAhead(model.transformer.h[0].attn, trace)
    with pytest.raises(InputError, match="is not causal"):
        rehearse(model, select_modules(model, "mlp"))


class LooksAside(LooksAhead):
    """An attention's output plus that of the sequence beside it."""

    def forward(self, *inputs, **named):
        output, *rest = self.inner(*inputs, **named)
        return (output + self.trace * output.mean(0, keepdim=True), *rest)


def test_a_model_whose_sequences_see_each_other_is_refused():
    model = cases.gpt2()
    model.transformer.h[0].attn = LooksAside(model.transformer.h[0].attn, 1.0)
    with pytest.raises(InputError, match=r"depends on the other sequences of its batch.*batch_sequences to 1"):
        rehearse(model, select_modules(model, "mlp"))


def rounding_in_batches(share):
    """A hook that changes what is said in batches of several sequences, whatever these are: an extreme of rounding."""

    def change(_module, _inputs, logits):
        noise = torch.linspace(-1, 1, logits.numel()).view_as(logits).to(logits)
        return logits + (len(logits) > 1) * share * noise / noise.norm() * logits.detach().norm()

    return change


def test_rounding_that_grows_in_batches_is_no_dependence():
    """As in pretrained models, some of whose activations are huge: SmolLM2 differs by 5e-4 with two threads."""
    model = cases.llama().float()
    model.lm_head.register_forward_hook(rounding_in_batches(1e-3))
    rehearse(model, select_modules(model, "mlp"))
    model.lm_head.register_forward_hook(rounding_in_batches(0.1))
    with pytest.raises(InputError, match="depends on the other sequences of its batch"):
        rehearse(model, select_modules(model, "mlp"))


@pytest.mark.parametrize("trace", [1.0, 1e-3])
def test_a_trace_of_the_sequence_beside_is_seen_in_float32(trace):
    model = cases.gpt2().float()
    model.transformer.h[0].attn = LooksAside(model.transformer.h[0].attn, trace)
    with pytest.raises(InputError, match="depends on the other sequences of its batch"):
        rehearse(model, select_modules(model, "mlp"))


DEEP = {
    "num_hidden_layers": 24, "hidden_size": 32, "moe_intermediate_size": 16, "initializer_range": 0.4,
    "num_experts": 16, "num_local_experts": 16, "num_experts_per_tok": 4,
}  # fmt: skip


@pytest.mark.parametrize("dtype", slow_but(torch.float32, of=[torch.float32, torch.bfloat16]))
@pytest.mark.parametrize("kind", slow_but("mixtral", of=["mixtral", "gpt_oss"]))
def test_a_router_that_rounding_moves_is_no_look_ahead(kind, dtype):
    """Experts multiply as many tokens as come to them, so that many layers on, what is said differs beyond rounding."""
    model = tiny(kind, **DEEP).to(dtype)
    rehearse(model, select_modules(model, "linear"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [-torch.inf, torch.finfo(torch.bfloat16).min])
def test_a_model_that_never_says_some_words_passes_and_must_be_causal(mask, dtype):
    for is_decoder in (True, False):
        model = bert(is_decoder=is_decoder).to(dtype)
        model.cls.predictions.decoder.register_forward_hook(
            lambda _module, _inputs, y: y.masked_fill(torch.arange(cases.VOCABULARY) > 12, mask)
        )
        with nullcontext() if is_decoder else pytest.raises(InputError, match="is not causal"):
            rehearse(model, select_modules(model, "linear"))


class Remembers(nn.Module):
    """An attention's output plus a trace of the last token's, without a gradient."""

    def __init__(self, inner, trace):
        super().__init__()
        self.inner, self.trace = inner, trace

    def forward(self, *inputs, **named):
        output, *rest = self.inner(*inputs, **named)
        return (output + self.trace * output[:, -1:].detach(), *rest)


def test_a_look_ahead_without_a_gradient_is_seen():
    model = cases.gpt2()
    model.transformer.h[0].attn = Remembers(model.transformer.h[0].attn, 0.1)
    with pytest.raises(InputError, match="is not causal"):
        rehearse(model, select_modules(model, "mlp"))


def test_a_model_that_overflows_is_refused_for_that():
    model = cases.gpt2().float()
    model.transformer.ln_f.weight.data[0] = torch.inf
    with pytest.raises(InputError, match=r"what GPT2LMHeadModel says is not a number.*model\.dtype to float32"):
        rehearse(model, select_modules(model, "mlp"))


def reversed_tokens(model):
    """Tokens in another order, each computed rightly: rows are not where they seem to be."""
    mlp = model.transformer.h[0].mlp
    once = mlp.forward
    mlp.forward = lambda x: once(x.flatten(0, 1).flip(0)).flip(0).view(x.shape)


def sequences_last(model):
    mlp = model.transformer.h[0].mlp
    once = mlp.forward
    mlp.forward = lambda x: once(x.transpose(0, 1).contiguous()).transpose(0, 1)


def called_twice(model):
    mlp = model.transformer.h[0].mlp
    once = mlp.forward
    mlp.forward = lambda x: once(once(x))


def without_effect(model):
    mlp = model.transformer.h[0].mlp
    once = mlp.forward
    mlp.forward = lambda x: once(x).detach()


def never_called(model):
    model.transformer.h[0].mlp.forward = torch.zeros_like


def weights_in_other_hands(model):
    mlp = model.transformer.h[0].mlp
    once = mlp.forward
    mlp.forward = lambda x: once(x) + mlp.c_proj.bias + mlp.c_fc.weight[0, :8]


UNSOUND = {
    reversed_tokens: "called with tokens of other sequences, or in another order",
    sequences_last: "not called with the tokens of whole sequences in their order",
    called_twice: "called more than once in a pass",
    without_effect: "of no effect on what the model says",
    never_called: "not called in a pass",
    weights_in_other_hands: "of another gradient than autograd's",
}


@pytest.mark.parametrize(("change", "reason"), UNSOUND.items())
def test_layers_that_cannot_be_attributed_are_refused_with_patterns_that_work(change, reason):
    model = cases.gpt2()
    change(model)
    with pytest.raises(InputError) as raised:
        rehearse(model, select_modules(model, "linear"))
    refused = [f"transformer.h.0.mlp.{name}" for name in ("c_fc", "c_proj")]
    assert raised.value.problem.startswith(reason)
    assert all(name in raised.value.problem for name in refused)
    patterns = ast.literal_eval(re.search(r"curvature\.modules: (\[.*\])", raised.value.remedy).group(1))
    layers = select_modules(model, patterns)
    everything = {layer.name for layer in select_modules(cases.gpt2(), "linear")}
    assert {layer.name for layer in layers} == everything - set(refused)
    rehearse(model, layers)


def test_a_layer_that_sees_tokens_end_to_end_is_measured():
    """As OPT's, which flattens the tokens of all sequences: rows go back to their sequences."""
    flattened, plain = cases.gpt2(), cases.gpt2()
    for block in flattened.transformer.h:
        once = block.mlp.forward
        block.mlp.forward = lambda x, once=once: once(x.flatten(0, 1)).view(x.shape)
    found = {}
    for name, model in {"flattened": flattened, "plain": plain}.items():
        layers = select_modules(model, "mlp")
        rehearse(model, layers)
        found[name] = gradients(Runner(model, layers, 3))
    torch.testing.assert_close(found["flattened"], found["plain"])


def gradients(runner):
    return query_gradients(runner, cases.queries()).layers
