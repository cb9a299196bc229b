"""Architectures in the precisions in which they are used: what works in float64 works in float32 and bfloat16."""

import pytest
import torch

from influence_assets.capture.covariance import covariances
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.runner import Runner
from tests import cases
from tests.architectures import table, tiny
from tests.tiers import slow_but

FAST = ("llama", "olmo, clip_qkv", "mamba")
SLOW = ("mixtral", "nemotron_h")
"""OLMo changes a layer's output in place; Mamba keeps what goes into its head in float32; Nemotron casts its logits."""

NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.5}

ROUGH = ("olmo_hybrid", "qwen3_5", "xlstm", "zaya")
"""Recurrences and routers of so small models multiply what bfloat16 rounds away; there, values are only finite."""


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("name", slow_but(*FAST, of=tiny.names(), slow=SLOW))
def test_a_lower_precision_gives_nearly_the_same(name, dtype):
    exact, lower = tiny.tiny(name), tiny.tiny(name).to(dtype)
    verdict, layers = table.tried(exact, "linear")
    its_verdict, its_layers = table.tried(lower, "linear")
    assert [layer.name for layer in its_layers] == [layer.name for layer in layers]
    if not layers:
        return
    assert its_verdict == verdict
    expected = query_gradients(Runner(exact, layers, 4), cases.queries(4)).layers
    found = query_gradients(Runner(lower, its_layers, 4), cases.queries(4)).layers
    assert all(bool(G.isfinite().all()) for G in found.values())
    apart, size = (
        torch.stack([G.double().norm() for G in values]).norm()
        for values in ([found[name] - expected[name] for name in expected], list(expected.values()))
    )
    assert apart < NEAR[dtype] * size or (dtype == torch.bfloat16 and name in ROUGH)
    totals = covariances(Runner(lower, its_layers, 4), cases.sequences(3), LabelSampler(0))
    assert all(
        bool(value.A.total.isfinite().all()) and value.A.total.dtype == torch.float32 for value in totals.values()
    )
