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
        self._buffers: dict[tuple[RotatedAxes, int, int], Tensor] = {}

    def of(self, sides: RotatedAxes, a: Tensor, Ds: Tensor) -> Tensor | None:
        """Return memory for G [sequence, d_out, d_in] with these sides in the eigenbasis; it is overwritten each time.

        None on a device, whose allocator keeps memory by itself.
        """
        if a.device.type != "cpu":
            return None
        kind = sides, Ds.shape[2], a.shape[2]
        if kind not in self._buffers or len(self._buffers[kind]) < len(a):
            self._buffers[kind] = a.new_empty(len(a), *kind[1:])
        return self._buffers[kind][: len(a)]


class LayerGradient:
    """One layer of a batch in a backward pass. What several measurements need of it is computed once.

    Args:
        name: of the layer.
        a: its input [sequence, token, d_in].
        Ds: the gradient at its output [sequence, token, d_out].
        basis: of the layer, where rotated gradients are needed.
        buffers: where gradients are put; the next layer's overwrite them.
    """

    def __init__(
        self, name: str, a: Tensor, Ds: Tensor, basis: Eigenbasis | None = None, buffers: GradientBuffers | None = None
    ) -> None:
        self.name = name
        self.a = a
        self.Ds = Ds
        self._basis = basis
        self._buffers = buffers or GradientBuffers()
        self._computed: dict[RotatedAxes, Tensor] = {}

    @property
    def rotated(self) -> Tensor:
        """Q_Sᵀ G Q_A, [sequence, d_out, d_in]."""
        return self.with_sides(RotatedAxes(S=True, A=True))

    def with_sides(self, sides: RotatedAxes) -> Tensor:
        """Return G with these of its sides in the eigenbasis, [sequence, d_out, d_in]."""
        if sides not in self._computed:
            out = self._buffers.of(sides, self.a, self.Ds)
            if not any(sides):
                self._computed[sides] = sequence_gradients(self.Ds, self.a, out=out)
            else:
                assert self._basis is not None  # noqa: S101  # whoever wants it rotated has given it
                self._computed[sides] = self._basis.rotated_sequence_gradients(
                    self.Ds, self.a, **sides._asdict(), out=out
                )
        return self._computed[sides]
