"""Vectors that gradients are multiplied by, which do not have to be in memory for all layers at once.

A query's P has as many numbers as the attributed weights, while the outer products that it is made of are few. Where
memory is short, P of a layer is made of them anew for each batch, if that takes less than another pass of the model for
each group of layers whose P would fit (`layer_groups.py`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from influence_assets.maths.rows import OutputSide
from influence_assets.models.layers.rule import AttributedLayer


class Sized(Protocol):
    """A layer, or its shape alone."""

    @property
    def name(self) -> str:
        """The module's name."""

    @property
    def output_width(self) -> int:
        """The width of the output."""

    @property
    def input_width(self) -> int:
        """The width of the input, including the bias's column."""

    @property
    def outputs(self) -> OutputSide:
        """What the output is to the curvature."""


@dataclass(frozen=True)
class Vectors:
    """How many vectors a measurement multiplies each layer's gradients by, and what they are made of.

    Args:
        number: how many there are.
        outer_products: how many each is made of on average, in every layer or by layer; infinitely many if they are
            stored in full.
    """

    number: int
    outer_products: float | Mapping[str, float]

    def numbers(self, layer: Sized) -> int:
        """Return how many numbers the vectors of a layer have."""
        return self.number * layer.output_width * layer.input_width

    def stored_numbers(self, layer: Sized) -> int:
        """Return how many numbers they are made of, which stay in memory."""
        of_outer_products = self._outer_products(layer) * (layer.output_width + layer.input_width)
        return math.ceil(self.number * min(of_outer_products, layer.output_width * layer.input_width))

    def are_made(self, layer: Sized) -> bool:
        """Return whether they are more than what they are made of."""
        return self.stored_numbers(layer) < self.numbers(layer)

    def operations(self, layer: Sized) -> float:
        """Count the operations of making the vectors of a layer once."""
        return 2.0 * self._outer_products(layer) * self.numbers(layer) if self.are_made(layer) else 0.0

    def _outer_products(self, layer: Sized) -> float:
        return self.outer_products[layer.name] if isinstance(self.outer_products, Mapping) else self.outer_products


Make = Callable[[str, Tensor | None], Tensor]
"""Makes the vectors of a layer, given its name and memory of their shape to write them to, or none."""


class LayerVectors(Mapping[str, Tensor]):
    """Vectors of every layer, [vector, d_out, d_in]: those of some stay in memory, others are made when they are used.

    Measurements take one layer after the other, so the vectors that were made last stay until another layer's are. They
    are made in the memory of earlier ones: new memory, page by page, would take longer than the products.

    Args:
        layers: the layers, in the model's order.
        make: makes the vectors of a layer, in the coordinates of its basis.
        held: the layers whose vectors stay; None: all.
    """

    def __init__(self, layers: Sequence[AttributedLayer], make: Make, held: frozenset[str] | None = None) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._make = make
        self._held = {name: self._made(name, None) for name in self._layers if held is None or name in held}
        self._memory: dict[tuple[int, int], Tensor] = {}
        self._last = ""

    def holds(self, layer: str) -> bool:
        """Return whether a layer's vectors stay in memory."""
        return layer in self._held

    def __getitem__(self, layer: str) -> Tensor:
        if layer in self._held:
            return self._held[layer]
        shape = self._layers[layer].output_width, self._layers[layer].input_width
        if self._last != layer:
            self._memory[shape] = self._made(layer, self._memory.get(shape))
            self._last = layer
        return self._memory[shape]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def _made(self, layer: str, out: Tensor | None) -> Tensor:
        return self._make(layer, out).to(self._layers[layer].device)


def placed(P: Mapping[str, Tensor], layers: Sequence[AttributedLayer]) -> Mapping[str, Tensor]:
    """Return vectors on the devices of their layers, as those that are made when they are used always are."""
    if isinstance(P, LayerVectors):
        return P
    return {layer.name: P[layer.name].to(layer.device) for layer in layers if layer.name in P}


def holds(P: Mapping[str, Tensor], layer: str) -> bool:
    """Return whether a layer's vectors stay in memory."""
    return P.holds(layer) if isinstance(P, LayerVectors) else layer in P
