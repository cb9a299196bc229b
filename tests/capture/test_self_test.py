"""The self-test: a sound model passes every line, and a model that is broken in one way fails the line for it."""

from functools import partial

import pytest
import torch
from torch import nn

from influence_assets.capture import self_test as module
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.self_test import Loaded, self_test
from influence_assets.models.layers.selection import select_modules
from tests import cases
from tests.architectures.tiny import tiny
from tests.capture.test_rehearsal import LooksAhead, LooksAside, weights_in_other_hands

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def lines(change=None, *, dtype="float32", modules="mlp", model=cases.gpt2):
    def load(named):
        made = model()
        if change is not None:
            change(made)
        made = made.to(DTYPES[named])
        return Loaded(made, select_modules(made, modules))

    measured = list(self_test(load, dtype, cases.sequences(12), cases.queries(3), seed=0))
    assert len({line.what for line in measured}) == len(measured)
    return {key: next(line for line in measured if line.what.startswith(key)) for key in KEYS[dtype]}


BESIDE = ("share", "causal", "padding", "batch", "rehearsal", "a sequence's gradient", "sampled labels")
KEYS = {
    "float32": (*BESIDE, "float32 (model.dtype)", "bfloat16 against"),
    "bfloat16": (*BESIDE, "bfloat16 (model.dtype)", "float32 against"),
    "float64": (*BESIDE, "float32 against", "bfloat16 against"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["llama", "mixtral", "llama, LoRA", "phi3, LongRoPE"])
def test_a_sound_model_passes_every_line(kind, dtype):
    measured = lines(dtype=dtype, model=partial(tiny, kind))
    assert not [line for key, line in measured.items() if line.level != "good" and not key.startswith("bfloat16")]


@pytest.mark.parametrize("model", [cases.gpt2, cases.llama], ids=["tied", "two matrices"])
def test_an_embedding_passes_every_line_too(model):
    measured = lines(modules="mlp+embedding", model=model)
    assert not [line for key, line in measured.items() if line.level != "good" and not key.startswith("bfloat16")]


class SeesItsNumber(LooksAhead):
    """An attention's output, which is larger the more tokens there are."""

    def forward(self, *inputs, **named):
        output, *rest = self.inner(*inputs, **named)
        return (output * (1 + self.trace * output.shape[1]), *rest)


class Loses(nn.Module):
    """An attention's output, of which as many digits are lost as a large number takes."""

    def __init__(self, inner, large):
        super().__init__()
        self.inner, self.large = inner, large

    def forward(self, *inputs, **named):
        output, *rest = self.inner(*inputs, **named)
        return ((output + self.large) - self.large, *rest)


def with_attention(wrapper, amount):
    def change(model):
        for block in model.transformer.h:
            block.attn = wrapper(block.attn, amount)

    return change


BROKEN = {
    "causal": (with_attention(LooksAhead, 0.1), "is_decoder"),
    "padding": (with_attention(SeesItsNumber, 0.1), "batch_sequences to 1"),
    "batch": (with_attention(LooksAside, 0.1), "batch_sequences to 1"),
    "rehearsal": (weights_in_other_hands, "curvature.modules"),
    "a sequence's gradient": (weights_in_other_hands, "curvature.modules"),
    "float32 (model.dtype)": (with_attention(Loses, 3e7), "Set model.dtype: float64"),
}


@pytest.mark.parametrize(("key", "broken"), BROKEN.items(), ids=BROKEN)
def test_what_is_broken_fails_the_line_for_it(key, broken):
    change, advice = broken
    line = lines(change)[key]
    assert line.level == "bad"
    assert advice in line.advice


def test_a_precision_that_is_not_the_studys_is_only_worth_a_look():
    measured = lines(with_attention(Loses, 300.0))
    assert measured["float32 (model.dtype)"].level == "good"
    assert measured["bfloat16 against"].level == "rough"
    assert lines(with_attention(Loses, 300.0), dtype="bfloat16")["bfloat16 (model.dtype)"].advice.endswith("float32.")


def test_a_small_share_is_worth_a_look():
    line = lines(modules=["transformer.h.1.attn.c_proj"])["share"]
    assert (line.level, line.measured) == ("rough", f"{72 / sum(p.numel() for p in cases.gpt2().parameters()):.1%}")


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_sampler_that_prefers_some_words_fails_its_line(power, monkeypatch):
    draw = LabelSampler.draw
    monkeypatch.setattr(module.LabelSampler, "draw", staticmethod(lambda p, u: draw(p, u**power)))
    assert lines()["sampled labels"].level == "bad"
