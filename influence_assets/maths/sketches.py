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

from influence_assets.maths.rows import Rows


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of each layer's whitened gradient that a sketch keeps.

    Args:
        kept: for each layer, indices into its flattened gradient, [d_out·d_in] or of low rank [r_S·r_A], ascending.
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


@dataclass(frozen=True)
class Energies:
    """The expected energy of a layer's whitened training gradients.

    Args:
        coordinates: Λ/(Λ + λ) of each coordinate that a sketch can keep, in float64.
        others: that of all others together.
    """

    coordinates: Float[Tensor, " coordinates"]
    others: float


@runtime_checkable
class Whitening(Protocol):
    """Whitens gradients of one layer at a few coordinates."""

    def of_gradients(self, V: Float[Tensor, "query d_out d_in"]) -> Float[Tensor, "query kept"]:
        """Return whitened gradients."""

    def of_tokens(
        self,
        Ds: Float[Tensor, "sequence token d_out"],
        a: Float[Tensor, "sequence token d_in"],
        G: Float[Tensor, "sequence row d_in"],
        rows: Rows | None = None,
    ) -> tuple[Float[Tensor, "sequence kept"], Float[Tensor, " sequence"]]:
        """Return the whitened gradients of sequences, and their squared norms over all coordinates.

        Both are sums over blocks of rows, if gradients come in blocks.

        Args:
            Ds: gradients at the layer's outputs.
            a: the layer's inputs.
            G: the sequences' gradients, in the coordinates that the curvature's V is given in.
            rows: the rows of the gradients that are given; None: all.
        """


@runtime_checkable
class Whitened(Protocol):
    """What is needed of a layer's curvature in order to sketch."""

    @property
    def coordinates(self) -> int:
        """How many coordinates a sketch can keep."""

    @property
    def device(self) -> torch.device:
        """Its device."""

    def energies(self) -> Energies:
        """Return the expected energies."""

    def whitening(self, kept: Int[Tensor, " kept"]) -> Whitening:
        """Return what whitens gradients at these coordinates."""


def strongest_coordinates(layers: Mapping[str, Whitened], count: int) -> Coordinates:
    """Return the `count` coordinates, over all layers, with the largest expected energy Λ/(Λ + λ).

    Of coordinates with the same energy, those that come first in the order of layers and indices are kept. The energies
    of one layer are in memory at a time.
    """
    candidates, total, size = [], 0.0, 0
    for layer in layers.values():
        energies = layer.energies()
        energy = energies.coordinates
        # Which of several equal values `topk` takes differs between processors and releases; the values do not.
        candidates.append(torch.topk(energy, min(count, len(energy))).values.cpu())
        total += float(energy.sum()) + energies.others
        size += len(energy)
    count = min(count, size)
    if not count:
        return Coordinates({name: torch.zeros(0, dtype=torch.long, device=x.device) for name, x in layers.items()}, 0.0)
    weakest = torch.topk(torch.cat(candidates), count).values[-1]
    above, equal, held = {}, {}, 0.0
    for name, layer in layers.items():
        energy = layer.energies().coordinates
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


def _indices(found: Bool[Tensor, " coordinates"], layer: Whitened) -> Int[Tensor, " found"]:
    return torch.nonzero(found).flatten().to(layer.device)


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
