"""The gradient of one layer, shared by all measurements of it in one backward pass."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Parts
from influence_assets.maths.curvature import Basis
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.rows import Rows


class RotatedAxes(NamedTuple):
    """Flags for the sides of a gradient that are in the eigenbasis: the outputs' side S, the inputs' side A."""

    S: bool
    A: bool


class GradientBuffers:
    """Memory for the gradients of a layer. The next layer uses it again, because it is in the processor's cache."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[RotatedAxes, int, int], Tensor] = {}

    def of(self, sides: RotatedAxes, rows: int, terms: GradientTerms) -> Tensor | None:
        """Return memory for these rows of G [sequence, row, d_in] with these sides in the eigenbasis.

        The next call overwrites it. Returns None on other devices, whose allocators reuse memory by themselves.
        """
        if terms.a.device.type != "cpu":
            return None
        kind = sides, rows, terms.shape[1]
        if kind not in self._buffers or len(self._buffers[kind]) < len(terms):
            self._buffers[kind] = terms.a.new_empty(len(terms), *kind[1:])
        return self._buffers[kind][: len(terms)]


class FactorRows(NamedTuple):
    """The rows of a batch whose Gram matrices are A and S.

    Args:
        A: rows of A's width.
        S: rows of S's width; None if there is no S.
        counted: how many tokens or sequences they count as.
    """

    A: Tensor
    S: Tensor | None
    counted: int


class LayerGradient:
    """One layer of a batch in a backward pass. Gradients that several measurements need are computed once.

    Args:
        name: the layer's name.
        terms: what its gradients are the sum of.
        basis: the layer's eigenbasis, if rotated gradients are needed.
        buffers: memory for the gradients; the next layer's gradients overwrite it.
        rows: the rows of G that are measured now, as `blocks` sets them; None: all.
    """

    def __init__(
        self,
        name: str,
        terms: GradientTerms,
        basis: Basis | None = None,
        buffers: GradientBuffers | None = None,
        rows: Rows | None = None,
    ) -> None:
        self.name = name
        self.terms = terms
        self.rows = rows
        self._basis = basis
        self._buffers = buffers or GradientBuffers()
        self._computed: dict[RotatedAxes, Tensor] = {}

    def blocks(self) -> Iterator["LayerGradient"]:
        """Yield the layer, a block of its rows at a time if it has a row for each word."""
        for rows in self.terms.row_blocks():
            yield LayerGradient(self.name, self.terms, self._basis, self._buffers, rows)

    def of_rows(self, M: Tensor) -> Tensor:
        """Return the rows that are measured now of matrices [..., d_out, d_in]."""
        return M if self.rows is None else self.rows.of(M)

    def counted_sequences(self, batch: Batch) -> int:
        """Return how many sequences count, each once for all blocks of rows."""
        return batch.counted_sequences if self.rows is None or self.rows.is_first else 0

    def factor_rows(self, batch: Batch) -> FactorRows:
        """Return the rows of A and S: the tokens that carry a loss, or for Gᵀ G the rows of gradients."""
        if self.rows is not None:
            G = self.with_sides(RotatedAxes(S=False, A=False))
            return FactorRows(G.flatten(0, 1), None, self.counted_sequences(batch))
        # Positions without a loss are left out: what the model computes for padding must not count in A.
        positions = batch.positions.to(self.terms.a.device)
        A, S = (x.flatten(0, 1)[positions] for x in (self.terms.a, self.terms.Ds))
        return FactorRows(A, S, len(positions))

    @property
    def rotated(self) -> Tensor:
        """Return Q_Sᵀ G Q_A, or G itself where the basis does not rotate, [sequence, row, d_in]."""
        return self.with_sides(RotatedAxes(S=True, A=True))

    def with_sides(self, sides: RotatedAxes) -> Tensor:
        """Return G with these sides in the eigenbasis, [sequence, row, d_in]."""
        sides = self._rotatable(sides)
        if sides not in self._computed:
            self._computed[sides] = self._gradients(self.terms, sides, self.rows, self._buffers)
        return self._computed[sides]

    def of_parts(self, sides: RotatedAxes, parts: Parts, buffers: GradientBuffers) -> Tensor:
        """Return G of each part, with these sides in the eigenbasis, [part, row, d_in].

        Args:
            sides: the sides that are in the eigenbasis.
            parts: parts of the batch's sequences, by their rows in the batch.
            buffers: memory for the gradients; the next call overwrites it.
        """
        return self.of_terms(sides, self.terms_of(parts), buffers)

    def of_terms(self, sides: RotatedAxes, terms: GradientTerms, buffers: GradientBuffers) -> Tensor:
        """Return G of each part, as `of_parts` does, given what `terms_of` returns."""
        return self._gradients(terms, self._rotatable(sides), None, buffers)

    def terms_of(self, parts: Parts) -> GradientTerms:
        """Return the terms of each part, as if it were a sequence; only those of the rows that are measured now."""
        longest, device = int(parts.lengths().max()), self.terms.a.device
        sequences, starts, ends = (
            torch.from_numpy(values).to(device, non_blocking=True)
            for values in (parts.sequences, parts.starts, parts.ends)
        )
        positions = starts[:, None] + torch.arange(longest, device=device)[None, :]
        outside = positions >= ends[:, None]
        return self.terms.of_parts(sequences, positions.masked_fill(outside, 0), outside, self.rows)

    def _rotatable(self, sides: RotatedAxes) -> RotatedAxes:
        """Return the sides that the basis rotates at all."""
        return sides if self._basis is None or self._basis.rotates else RotatedAxes(S=False, A=False)

    def _gradients(
        self, terms: GradientTerms, sides: RotatedAxes, rows: Rows | None, buffers: GradientBuffers
    ) -> Tensor:
        out = None
        if self.rows is None or self.rows.recurs:
            out = buffers.of(sides, terms.shape[0] if rows is None else len(rows), terms)
        # Callers that need rotated gradients give a basis.
        return terms.gradients(self._basis if any(sides) else None, **sides._asdict(), rows=rows, out=out)
