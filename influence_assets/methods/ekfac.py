"""Influence functions with the EK-FAC inverse (Grosse et al. 2023): P = (G + λI)⁻¹ V, in nats per added copy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.method import AttributionMethod, MethodContext

if TYPE_CHECKING:
    from torch import Tensor

    from influence_assets.maths.curvature import Curvature


def precondition(V: "Mapping[str, Tensor]", curvature: "Mapping[str, Curvature]") -> "dict[str, Tensor]":
    """Apply the damped inverse in every layer; where all eigenvectors are kept it is a division.

    Args:
        V: gradients of every layer, [query, d_out, d_in], in the coordinates of its basis; they are overwritten.
        curvature: the curvature of every layer.
    """
    return {name: layer.precondition(V[name]) for name, layer in curvature.items()}


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    return precondition(V, context.curvature)


METHOD = AttributionMethod(name="ekfac", unit="nats", prepare=_prepare, needs_curvature=True, layer_by_layer=True)
