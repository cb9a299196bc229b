"""The coordinates of whitened gradients that sketches keep, so that inner products of sketches estimate influence.

⟨V, (G+λI)⁻¹ G_z⟩ is the inner product of two whitened gradients (Λ + λ)^−½ ⊙ Q_Sᵀ G Q_A. A coordinate's expected
energy in a whitened training gradient is Λ/(Λ + λ), so the coordinates with large Λ/λ are kept. On average, a query's
gradient has more of its energy there than a training sequence's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from influence_assets.maths.ekfac import LayerCurvature


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of each layer's whitened gradient that a sketch keeps.

    Args:
        kept: for each layer, indices into its flattened [d_out·d_in] gradient, ascending.
        energy: share of the expected energy of a whitened training gradient that they hold, 0 to 1.
    """

    kept: dict[str, Int[Tensor, " kept"]]
    energy: float

    @property
    def width(self) -> int:
        """The number of coordinates in one sketch."""
        return sum(len(indices) for indices in self.kept.values())


def strongest_coordinates(layers: dict[str, LayerCurvature], count: int) -> Coordinates:
    """Return the `count` coordinates, over all layers, with the largest expected energy Λ/(Λ + λ)."""
    energy = {name: (layer.Λ / (layer.Λ + layer.λ)).flatten().double() for name, layer in layers.items()}
    everywhere = torch.cat(list(energy.values()))
    count = min(count, len(everywhere))
    strongest = torch.topk(everywhere, count).indices.sort().values
    share = float(everywhere[strongest].sum() / everywhere.sum())
    kept = {}
    start = 0
    for name, layer_energy in energy.items():
        inside = (strongest >= start) & (strongest < start + len(layer_energy))
        kept[name] = strongest[inside] - start
        start += len(layer_energy)
    return Coordinates(kept, share)


def layer_sketch(
    layer: LayerCurvature,
    rotated: Float[Tensor, "sequence d_out d_in"],
    kept: Int[Tensor, " kept"],
) -> Float[Tensor, "sequence kept"]:
    """Return the kept coordinates of the whitened gradients; only these are computed."""
    scale = (layer.Λ.flatten()[kept] + layer.λ).rsqrt()
    return rotated.flatten(1)[:, kept] * scale


def whitened_squared_norms(
    rotated: Float[Tensor, "sequence d_out d_in"], weights: Float[Tensor, "d_out d_in"]
) -> Float[Tensor, " sequence"]:
    """‖(Λ + λ)^−½ ⊙ Q_Sᵀ G Q_A‖² of each gradient over all its coordinates.

    Args:
        rotated: Q_Sᵀ G Q_A.
        weights: 1/(Λ + λ).
    """
    flat = weights.flatten()
    # One gradient at a time: its squares stay in the processor's cache.
    return torch.stack([torch.dot(G.square().flatten(), flat) for G in rotated])
