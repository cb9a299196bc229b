"""The gradient of one layer, shared by all that is measured of it in one backward pass."""

from typing import NamedTuple

from torch import Tensor

from influence_assets.maths.ekfac import Eigenbasis, sequence_gradients


class RotatedAxes(NamedTuple):
    """Which sides of a gradient are in the eigenbasis: that of the outputs, that of the inputs."""

    S: bool
    A: bool


class GradientBuffers:
    """Memory for the gradients of a layer, used again for the next one: what was just written is in the cache."""

    def __init__(self) -> None:
        self._places: dict[tuple[RotatedAxes, int, int], Tensor] = {}

    def of(self, sides: RotatedAxes, a: Tensor, Ds: Tensor) -> Tensor | None:
        """Room for G [sequence, d_out, d_in] with these sides in the eigenbasis; what was there is overwritten.

        None on a device, whose allocator keeps memory by itself.
        """
        if a.device.type != "cpu":
            return None
        kind = sides, Ds.shape[2], a.shape[2]
        if kind not in self._places or len(self._places[kind]) < len(a):
            self._places[kind] = a.new_empty(len(a), *kind[1:])
        return self._places[kind][: len(a)]


class LayerGradient:
    """One layer of a batch in a backward pass. What several measurements need of it is computed once.

    Args:
        name: of the layer.
        a: its input [sequence, token, d_in].
        Ds: the gradient at its output [sequence, token, d_out].
        basis: of the layer, where rotated gradients will be asked for.
        places: where gradients are put; they are overwritten by those of the next layer.
    """

    def __init__(
        self, name: str, a: Tensor, Ds: Tensor, basis: Eigenbasis | None = None, places: GradientBuffers | None = None
    ) -> None:
        self.name = name
        self.a = a
        self.Ds = Ds
        self._basis = basis
        self._places = places or GradientBuffers()
        self._found: dict[RotatedAxes, Tensor] = {}

    @property
    def rotated(self) -> Tensor:
        """Q_Sᵀ G Q_A, [sequence, d_out, d_in]."""
        return self.with_sides(RotatedAxes(S=True, A=True))

    def with_sides(self, sides: RotatedAxes) -> Tensor:
        """G with these of its sides in the eigenbasis, [sequence, d_out, d_in]."""
        if sides not in self._found:
            out = self._places.of(sides, self.a, self.Ds)
            if not any(sides):
                self._found[sides] = sequence_gradients(self.Ds, self.a, out=out)
            else:
                assert self._basis is not None  # noqa: S101  # whoever asks has given it
                self._found[sides] = self._basis.rotated_sequence_gradients(self.Ds, self.a, **sides._asdict(), out=out)
        return self._found[sides]
