"""Influence functions with K-FAC's curvature, in nats per added copy: EK-FAC without its corrected eigenvalues.

What its scores lack beside those of EK-FAC is what measuring the eigenvalues is worth (George et al. 2018).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from influence_assets.methods.method import AttributionMethod, MethodContext

if TYPE_CHECKING:
    from torch import Tensor


def _prepare(V: "Mapping[str, Tensor]", context: MethodContext) -> "dict[str, Tensor]":
    from influence_assets.maths.kfac import uncorrected

    return {name: uncorrected(layer).precondition(V[name]) for name, layer in context.curvature.items()}


METHOD = AttributionMethod(name="kfac", unit="nats", prepare=_prepare, needs_curvature=True, layer_by_layer=True)
