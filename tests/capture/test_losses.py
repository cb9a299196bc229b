"""Which models' losses are computed without all their logits, and which labels are drawn."""

from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import pytest
import torch

from influence_assets.capture.losses import LabelSampler, plain_head
from tests import cases


def test_a_plain_head_is_seen():
    model = cases.gpt2().float()
    assert plain_head(model, ()).weight is model.lm_head.weight
    assert not model.lm_head._forward_hooks, "nothing is left on it"


def test_a_cap_far_above_the_models_own_logits_is_seen():
    """In float32 such logits come out as if there were none; those of another prompt may not."""
    model = cases.gemma2(cap=1e4).float()
    assert plain_head(model, ()) is None


SHARPNESS = {"uniform": 0.0, "peaked": 4.0}


@pytest.mark.parametrize("words", [17, 152_000])
@pytest.mark.parametrize("sharpness", SHARPNESS.values(), ids=SHARPNESS)
def test_every_word_is_drawn_by_the_numbers_of_its_own_interval(words, sharpness):
    """The right word is found with exact fractions: that whose interval of the cumulative distribution holds u."""
    generator = torch.Generator().manual_seed(0)
    p = (sharpness * torch.randn(words, generator=generator)).softmax(-1)
    cumulative = list(accumulate(Fraction(probability) for probability in p.tolist()))
    asked = [*torch.randint(words, (24,), generator=generator).tolist(), 0, words - 1]
    middles = [(cumulative[word] - Fraction(float(p[word])) / 2) / cumulative[-1] for word in asked]
    assert [bisect_right(cumulative, u * cumulative[-1]) for u in middles] == asked
    uniforms = torch.tensor([float(u) for u in middles], dtype=torch.float64)
    assert LabelSampler.draw(p.expand(len(asked), -1), uniforms).tolist() == asked
