"""The asset `refitted_head`: the model's last layer, fitted again to what the model says, so that tokens explain it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from influence_assets.assets.method_rows import listed
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.errors import InputError
from influence_assets.layouts.representer import METHOD
from influence_assets.methods.registry import given_settings, options_of
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    from torch import Tensor

PRODUCTS = 100
"""How often the fit goes over all states, about; each time takes three products with a matrix of the head's size."""

MATRICES = 12
"""Matrices of the head's size in memory, in float64: weights, gradients, and what conjugate gradients hold."""


def _compute(work: Work) -> None:
    from influence_assets.layouts.hidden_states import all_states
    from influence_assets.layouts.representer import write_heads
    from influence_assets.maths.representer_points import refitted_head

    own, decay = _own_head(work), options_of(work.study, METHOD).decay
    shards = work.open_all("hidden_states")
    tokens = sum(int(shard.manifest.summary["tokens"]) for shard in shards)
    if not tokens:
        raise InputError("corpus.path", "has no token that carries a loss", "Leave out representer_points.")
    has_bias = own.shape[1] > int(shards[0].manifest.summary["width"])
    try:
        found = refitted_head(all_states(shards, with_ones=has_bias), own, decay)
    except ArithmeticError as error:
        remedy = "Raise it: the smaller it is, the fewer digits the sum over tokens has."
        raise InputError(f"method_options.{METHOD.name}.decay", str(error), remedy) from error
    write_heads(work.draft, (found.weight, own))
    work.draft.summarise(
        tokens=tokens, decay=decay, has_bias=has_bias, parameters=own.numel(),
        steps=found.steps, products=found.products, error=found.error,
    )  # fmt: skip


def _own_head(work: Work) -> "Tensor":
    """Return the model's head in float64, with its bias as a last column if it has one.

    Raises:
        InputError: logits are not the plain product of the head with its input.
    """
    import torch

    from influence_assets.capture.losses import plain_head
    from influence_assets.layouts.model import loaded_model
    from influence_assets.maths.notation import in_float64

    model = loaded_model(work.workspace, work.open("language_model"))
    head = plain_head(model, ())
    if head is None:
        raise InputError(
            "methods",
            f"representer_points explains logits that are a product with the last hidden state, as those of a "
            f"{model.config.model_type} model are not",
            "Leave it out.",
        )
    weight = in_float64(head.weight.detach())
    return weight if head.bias is None else torch.cat([weight, head.bias.detach().to(weight)[:, None]], 1)


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return Cost(PRODUCTS * 3 * sizes.all_sequences() * sizes.shape.head, 2 * _head_bytes(sizes))


def _memory(sizes: Any) -> int:
    return int(sizes.pass_memory(MATRICES * _head_bytes(sizes)))


def _head_bytes(sizes: Any) -> float:
    """Return the bytes of the head in float64."""
    shape = sizes.shape
    return float(8 * shape.head / (2 * (shape.tokens - 1)))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"Fitted to {figures['tokens']:,} tokens with a decay of {figures['decay']:g} in "
        f"{figures['steps']:,} steps; the sum over tokens differs from it by {figures['error']:.1e}."
    }


ASSET = AssetDefinition(
    name="refitted_head",
    group="attribution",
    description=(
        "The model's last layer, fitted again with decay to what the model itself says of the corpus, until its "
        "weights are a sum over training tokens. Needed by the method representer_points."
    ),
    kinds=frozenset({"torch", "safetensors"}),
    inputs=("hidden_states", "language_model"),
    code_version="1",
    settings=lambda study: {"dtype": study.model.dtype, **given_settings(study, METHOD)},
    compute=_compute,
    on_request=True,
    is_requested=listed(METHOD.name),
    only_by_settings=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
)
