"""GPT-2's linear layer: y = x W + b, W stored as [width, d_out]."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from influence_assets.models.layers.likeness import computes_like
from influence_assets.models.layers.rule import FrozenMap, LayerRule, with_bias, with_ones


class TransposedLinear(LayerRule):
    """The rule for transformers' `Conv1D`, which always has a bias, and for its subclasses that compute the same."""

    name = "conv1d"

    def covers(self, module: nn.Module) -> bool:
        """See `LayerRule`."""
        return computes_like(module, Conv1D)

    def widths(self, module: Any) -> tuple[int, int]:
        """See `LayerRule`."""
        width, d_out = module.weight.shape
        return d_out, width + 1

    def inputs(self, module: Any, x: Tensor) -> Tensor:  # noqa: ARG002
        """See `LayerRule`."""
        return with_ones(x)

    def as_matrix(self, module: Any, gradients: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `LayerRule`."""
        return with_bias(gradients["weight"].T, gradients["bias"])

    def frozen_map(self, module: Any) -> FrozenMap:
        """See `LayerRule`."""
        return FrozenMap(module.weight, module.bias)


LAYER_RULE = TransposedLinear()
