"""Every row of docs/architectures.md, tried on a tiny model; see `table.py`."""

import pytest

from influence_assets.capture.rehearsal import rehearse
from influence_assets.errors import InputError
from influence_assets.models.layers.selection import select_modules
from tests.architectures import table, tiny
from tests.tiers import slow_but

FAST = ("llama", "mixtral", "gpt_oss", "opt", "falcon", "olmo, clip_qkv", "phi3, LongRoPE", "bert", "mamba")
SLOW = set(list(tiny.names())[::2])
NOT_CAUSAL = ("prophetnet", "xlm")


@pytest.mark.parametrize("name", slow_but(*FAST, of=tiny.names(), slow=SLOW))
def test_a_row_says_what_the_architecture_does(name):
    """What works agrees with autograd and does not depend on batch, padding and neighbours; remedies are followed."""
    row = table.row(name)
    assert row.error <= table.TOLERANCE
    assert row.line() == table.rows_of_page()[name]


@pytest.mark.parametrize("name", slow_but(*FAST, of=tiny.names(), slow=SLOW))
def test_its_embedding_can_be_attributed(name):
    """Tied to the head or not, scaled or not: its gradients are autograd's. An adapter has no embedding of its own."""
    model = tiny.tiny(name)
    if name in NOT_CAUSAL or name.endswith(", LoRA"):
        with table.InFloat64(), pytest.raises(InputError):
            rehearse(model, select_modules(model, "embedding"))
        return
    with table.InFloat64():
        layers = select_modules(model, "embedding")
        rehearse(model, layers)
        assert table.largest_error(model, layers) <= table.TOLERANCE


def test_the_page_has_every_architecture_and_sixty_work():
    rows = table.rows_of_page()
    assert set(rows) == set(tiny.names())
    assert sum(not line.endswith("| – |") for line in rows.values()) >= 60
