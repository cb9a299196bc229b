"""The gradient of one layer, shared by all measurements of it in one backward pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from influence_assets.capture.batches import Parts
from influence_assets.maths.curvature import Basis
from influence_assets.maths.ekfac import sequence_gradients


class RotatedAxes(NamedTuple):
    """Flags for the sides of a gradient that are in the eigenbasis: the outputs' side S, the inputs' side A."""

    S: bool
    A: bool


class GradientBuffers:
    """Memory for the gradients of a layer. The next layer uses it again, because it is in the processor's cache."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[RotatedAxes, int, int], Tensor] = {}

    def of(self, sides: RotatedAxes, a: Tensor, Ds: Tensor) -> Tensor | None:
        """Return memory for G [sequence, d_out, d_in] with these sides in the eigenbasis; the next call overwrites it.

        Returns None on other devices, whose allocators reuse memory by themselves.
        """
        if a.device.type != "cpu":
            return None
        kind = sides, Ds.shape[2], a.shape[2]
        if kind not in self._buffers or len(self._buffers[kind]) < len(a):
            self._buffers[kind] = a.new_empty(len(a), *kind[1:])
        return self._buffers[kind][: len(a)]


class LayerGradient:
    """One layer of a batch in a backward pass. Gradients that several measurements need are computed once.

    Args:
        name: the layer's name.
        a: the layer's input [sequence, token, d_in].
        Ds: the gradient at the layer's output [sequence, token, d_out].
        basis: the layer's eigenbasis, if rotated gradients are needed.
        buffers: memory for the gradients; the next layer's gradients overwrite it.
    """

    def __init__(
        self, name: str, a: Tensor, Ds: Tensor, basis: Basis | None = None, buffers: GradientBuffers | None = None
    ) -> None:
        self.name = name
        self.a = a
        self.Ds = Ds
        self._basis = basis
        self._buffers = buffers or GradientBuffers()
        self._computed: dict[RotatedAxes, Tensor] = {}

    @property
    def rotated(self) -> Tensor:
        """Return Q_Sᵀ G Q_A, or G itself where the basis does not rotate, [sequence, d_out, d_in]."""
        return self.with_sides(RotatedAxes(S=True, A=True))

    def with_sides(self, sides: RotatedAxes) -> Tensor:
        """Return G with these sides in the eigenbasis, [sequence, d_out, d_in]."""
        sides = self._rotatable(sides)
        if sides not in self._computed:
            self._computed[sides] = self._gradients(self.Ds, self.a, sides, self._buffers.of(sides, self.a, self.Ds))
        return self._computed[sides]

    def of_parts(self, sides: RotatedAxes, parts: Parts, buffers: GradientBuffers) -> Tensor:
        """Return Σ Ds_t a_tᵀ over the positions of each part, with these sides in the eigenbasis, [part, d_out, d_in].

        Args:
            sides: the sides that are in the eigenbasis.
            parts: parts of the batch's sequences, by their rows in the batch.
            buffers: memory for the gradients; the next call overwrites it.
        """
        sides = self._rotatable(sides)
        longest = int(parts.lengths().max())
        sequences, starts, ends = (
            torch.from_numpy(values).to(self.a.device, non_blocking=True)
            for values in (parts.sequences, parts.starts, parts.ends)
        )
        positions = starts[:, None] + torch.arange(longest, device=self.a.device)[None, :]
        outside = positions >= ends[:, None]
        positions = positions.masked_fill(outside, 0)
        Ds = self.Ds[sequences[:, None], positions].masked_fill_(outside[..., None], 0)
        a = self.a[sequences[:, None], positions]
        return self._gradients(Ds, a, sides, buffers.of(sides, a, Ds))

    def _rotatable(self, sides: RotatedAxes) -> RotatedAxes:
        """Return the sides that the basis rotates at all."""
        return sides if self._basis is None or self._basis.rotates else RotatedAxes(S=False, A=False)

    def _gradients(self, Ds: Tensor, a: Tensor, sides: RotatedAxes, out: Tensor | None) -> Tensor:
        if not any(sides):
            return sequence_gradients(Ds, a, out=out)
        assert self._basis is not None  # noqa: S101  # callers that need rotated gradients give a basis
        return self._basis.rotated_sequence_gradients(Ds, a, **sides._asdict(), out=out)
