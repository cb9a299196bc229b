"""Influence functions with the EK-FAC inverse (Grosse et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from influence_assets.maths.ekfac import LayerCurvature


@dataclass(frozen=True)
class EKFAC:
    """P = (G + λI)⁻¹ V, in the eigenbases a division: scores are in nats per added copy of a sequence."""

    layers: Mapping[str, LayerCurvature]
    name: str = "ekfac"

    def precondition(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The damped inverse applied in every layer, in place: gradients are large, and two of each may not fit."""
        return {name: gradients[name].div_(layer.Λ + layer.λ) for name, layer in self.layers.items()}
