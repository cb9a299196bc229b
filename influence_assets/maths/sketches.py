"""The coordinates of whitened gradients that sketches keep, so that inner products of sketches estimate influence.

⟨V, (G+λI)⁻¹ G_z⟩ is the inner product of two whitened gradients (Λ + λ)^−½ ⊙ Q_Sᵀ G Q_A. A coordinate's expected
energy in a whitened training gradient is Λ/(Λ + λ), so the coordinates with large Λ/λ are kept. On average, a query's
gradient has more of its energy there than a training sequence's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from influence_assets.maths.notation import in_float64


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of each layer's whitened gradient that a sketch keeps.

    Args:
        kept: for each layer, indices into its flattened [d_out·d_in] gradient, ascending.
        energy: share of the expected energy of a whitened training gradient that they hold, 0 to 1.
        are_unique: whether no other coordinate has as much expected energy as the weakest of them, so that whoever
            draws as many from the same curvature draws these.
    """

    kept: dict[str, Int[Tensor, " kept"]]
    energy: float
    are_unique: bool = True

    @property
    def width(self) -> int:
        """The number of coordinates in one sketch."""
        return sum(len(indices) for indices in self.kept.values())


@runtime_checkable
class Damped(Protocol):
    """What is needed of a layer's curvature: its corrected eigenvalues and its damping."""

    @property
    def Λ(self) -> Float[Tensor, "d_out d_in"]:  # noqa: N802  # the symbol of the papers
        """The corrected eigenvalues."""

    @property
    def λ(self) -> float:
        """The damping."""


def strongest_coordinates(layers: Mapping[str, Damped], count: int) -> Coordinates:
    """Return the `count` coordinates, over all layers, with the largest expected energy Λ/(Λ + λ).

    Of coordinates with the same energy, those that come first in the order of layers and indices are kept. The energies
    of one layer are in memory at a time.
    """
    candidates, total, size = [], 0.0, 0
    for layer in layers.values():
        energy = _energy(layer)
        # Which of several equal values `topk` takes differs between processors and releases; the values do not.
        candidates.append(torch.topk(energy, min(count, len(energy))).values.cpu())
        total += float(energy.sum())
        size += len(energy)
    count = min(count, size)
    weakest = torch.topk(torch.cat(candidates), count).values[-1]
    above, equal, held = {}, {}, 0.0
    for name, layer in layers.items():
        energy = _energy(layer)
        is_above, is_equal = energy > weakest.to(energy.device), energy == weakest.to(energy.device)
        above[name], equal[name] = (_indices(found, layer) for found in (is_above, is_equal))
        held += float(energy[is_above].sum())
    left = count - sum(map(len, above.values()))
    are_unique = sum(map(len, equal.values())) == left
    held += left * float(weakest)
    kept = {}
    for name in layers:
        first = equal[name][:left]
        left -= len(first)
        kept[name] = torch.cat([above[name], first]).sort().values
    return Coordinates(kept, held / total, are_unique)


def _energy(layer: Damped) -> Float[Tensor, " coordinates"]:
    return in_float64((layer.Λ / (layer.Λ + layer.λ)).flatten())


def _indices(found: Bool[Tensor, " coordinates"], layer: Damped) -> Int[Tensor, " found"]:
    return torch.nonzero(found).flatten().to(layer.Λ.device)


def split_by_layer(everywhere: Int[Tensor, " kept"], sizes: Mapping[str, int]) -> dict[str, Int[Tensor, " _"]]:
    """Return indices into each layer's flattened gradient, from indices into those of all layers, one after the other.

    Args:
        everywhere: the indices, ascending.
        sizes: the length of each layer's flattened gradient.
    """
    kept, start = {}, 0
    for name, size in sizes.items():
        kept[name] = everywhere[(everywhere >= start) & (everywhere < start + size)] - start
        start += size
    return kept


def layer_sketch(
    layer: Damped,
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
