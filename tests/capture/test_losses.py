"""Which models' losses are computed without all their logits."""

from influence_assets.capture.losses import plain_head
from tests import cases


def test_a_plain_head_is_seen():
    model = cases.gpt2().float()
    assert plain_head(model, ()).weight is model.lm_head.weight
    assert not model.lm_head._forward_hooks, "nothing is left on it"


def test_a_cap_far_above_the_models_own_logits_is_seen():
    """In float32 such logits come out as if there were none; those of another prompt may not."""
    model = cases.gemma2(cap=1e4).float()
    assert plain_head(model, ()) is None
