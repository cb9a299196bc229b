"""torch's own linear layer: y = W x (+ b), W stored as [d_out, width]."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from influence_assets.models.layers.likeness import computes_like
from influence_assets.models.layers.rule import FrozenMap, LayerRule, with_bias, with_ones


class Linear(LayerRule):
    """The rule for `nn.Linear`, and for its subclasses that compute the same."""

    name = "linear"

    def covers(self, module: nn.Module) -> bool:
        """See `LayerRule`."""
        return computes_like(module, nn.Linear)

    def widths(self, module: Any) -> tuple[int, int]:
        """See `LayerRule`."""
        d_out, width = module.weight.shape
        return d_out, width + int(module.bias is not None)

    def inputs(self, module: Any, x: Tensor) -> Tensor:
        """See `LayerRule`."""
        return x if module.bias is None else with_ones(x)

    def as_matrix(self, module: Any, gradients: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `LayerRule`."""
        return with_bias(gradients["weight"], gradients.get("bias"))

    def frozen_map(self, module: Any) -> FrozenMap:
        """See `LayerRule`."""
        return FrozenMap(module.weight.T, module.bias)


LAYER_RULE = Linear()
