"""Vectors that gradients are multiplied by, of which all layers' do not have to be in memory at once.

A query's P has as many numbers as the attributed weights, while the outer products that it is made of are few. Where
memory is short, P of a layer is made of them anew for each batch, which takes far less than another pass of the model
for each group of layers whose P would fit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from influence_assets.models.layers.rule import AttributedLayer


class Vectors(NamedTuple):
    """How many vectors a measurement multiplies each layer's gradients by, and what they are made of.

    Args:
        number: how many there are.
        outer_products: the outer products that each is made of; infinitely many if it is stored in full.
    """

    number: int
    outer_products: float

    def numbers(self, d_out: int, d_in: int) -> int:
        """Return how many numbers the vectors of a layer have."""
        return self.number * d_out * d_in

    def stored_numbers(self, d_out: int, d_in: int) -> int:
        """Return how many numbers they are made of, which stay in memory."""
        return int(self.number * min(self.outer_products * (d_out + d_in), d_out * d_in))

    def operations(self, d_out: int, d_in: int) -> float:
        """Count the operations of making the vectors of a layer once."""
        if self.stored_numbers(d_out, d_in) == self.numbers(d_out, d_in):
            return 0.0
        return 2.0 * self.outer_products * self.numbers(d_out, d_in)


class LayerVectors(Mapping[str, Tensor]):
    """Vectors of every layer, [vector, d_out, d_in]: those of some stay in memory, others are made when they are used.

    Measurements take one layer after the other, so the vectors that were made last stay until another layer's are.

    Args:
        layers: the layers, in the model's order.
        make: makes the vectors of a layer, in the coordinates of its basis.
        held: the layers whose vectors stay; None: all.
    """

    def __init__(
        self, layers: Sequence[AttributedLayer], make: Callable[[str], Tensor], held: frozenset[str] | None = None
    ) -> None:
        self._devices = {layer.name: layer.device for layer in layers}
        self._make = make
        self._held = {name: self._made(name) for name in self._devices if held is None or name in held}
        self._last: tuple[str, Tensor] | None = None

    def holds(self, layer: str) -> bool:
        """Return whether a layer's vectors stay in memory."""
        return layer in self._held

    def __getitem__(self, layer: str) -> Tensor:
        if layer in self._held:
            return self._held[layer]
        if self._last is None or self._last[0] != layer:
            self._last = None  # before the next are made
            self._last = layer, self._made(layer)
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._devices)

    def __len__(self) -> int:
        return len(self._devices)

    def _made(self, layer: str) -> Tensor:
        return self._make(layer).to(self._devices[layer])


def placed(P: Mapping[str, Tensor], layers: Sequence[AttributedLayer]) -> Mapping[str, Tensor]:
    """Return vectors on the devices of their layers, as those that are made when they are used always are."""
    if isinstance(P, LayerVectors):
        return P
    return {layer.name: P[layer.name].to(layer.device) for layer in layers if layer.name in P}


def holds(P: Mapping[str, Tensor], layer: str) -> bool:
    """Return whether a layer's vectors stay in memory."""
    return P.holds(layer) if isinstance(P, LayerVectors) else layer in P
