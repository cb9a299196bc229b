"""The plain inner product of gradients: influence with the identity instead of the curvature, P = V."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.method import AttributionMethod, MethodContext

if TYPE_CHECKING:
    from torch import Tensor


def _prepare(V: "Mapping[str, Tensor]", _context: MethodContext) -> "dict[str, Tensor]":
    return dict(V)


METHOD = AttributionMethod(name="gradient_dot", unit=None, prepare=_prepare, layer_by_layer=True)
