"""Influence functions with the diagonal of EK-FAC's curvature in the model's own coordinates, in nats per added copy.

P = V / (D + λ), with D the diagonal of G: no weight knows of the others. What its scores lack beside those of EK-FAC is
what the eigenvectors are worth.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.method import AttributionMethod, MethodContext

if TYPE_CHECKING:
    from torch import Tensor


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.diagonal import diagonal

    prepared: dict[str, Tensor] = {}
    for name, layer in context.curvature.items():
        plain = layer.basis.rotate_back(V[name])
        plain /= diagonal(layer).to(plain) + layer.λ
        prepared[name] = layer.basis.rotate(plain)
    return prepared


METHOD = AttributionMethod(name="diagonal", unit="nats", prepare=_prepare, needs_curvature=True, layer_by_layer=True)
