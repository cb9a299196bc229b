"""A and S: the second moments of layers' inputs and output gradients, as totals over tokens."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import Eigenbasis, eigenbasis, one_sided_eigenbasis
from influence_assets.maths.moments import FactorMoment, GramAccumulator
from influence_assets.models.layers.rule import AttributedLayer


@dataclass(frozen=True)
class Covariances:
    """A and S of one layer, as totals over tokens.

    A layer with a row for each word has no S, and its A is Σ Gᵀ G over sequences.
    """

    A: FactorMoment
    S: FactorMoment | None

    def basis(self, d_out: int) -> Eigenbasis:
        """Return the eigenvectors, in float64, of a layer of this width of the output.

        Raises:
            ValueError: a factor is not finite.
        """
        return one_sided_eigenbasis(self.A, d_out) if self.S is None else eigenbasis(self.A, self.S)


class Accumulator(Protocol):
    """Sums over the rows of a factor."""

    def add(self, rows: Tensor, count: int | None = None) -> None:
        """Add rows, which count as one each if nothing else is given."""

    def absorb(self, other: Self) -> None:
        """Add the sums of another accumulator."""

    def clear(self) -> None:
        """Set all sums to zero."""

    def packed(self) -> Tensor:
        """Return all sums as one vector."""

    def of_width(self, width: int) -> Self:
        """Return this accumulator, or one with sums of zero if nothing has been added yet."""


Sums = TypeVar("Sums", bound=Accumulator)


class FactorTotals(Participant, Generic[Sums]):
    """Totals over the rows of A and S of every layer, the tokens that carry a loss.

    A pass goes through all layers, so the totals of all of them are in memory at once, each on its layer's device.

    Args:
        begin: returns an accumulator for a factor of a width.
    """

    fits = True

    def __init__(self, begin: Callable[[int], Sums]) -> None:
        self._begin = begin
        self.A: dict[str, Sums] = {}
        self.S: dict[str, Sums] = {}

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's inputs and output gradients of a batch."""
        rows = layer.factor_rows(batch)
        self._of(self.A, layer.name, rows.A.shape[1]).add(rows.A, rows.counted)
        if rows.S is not None:
            self._of(self.S, layer.name, rows.S.shape[1]).add(rows.S, rows.counted)

    def absorb(self, other: "FactorTotals[Sums]", layers: Iterable[AttributedLayer]) -> None:
        """Add the totals of some layers over another part of the sequences."""
        for layer in layers:
            for own, others, width in (
                (self.A, other.A, layer.input_width),
                (self.S, other.S, layer.output_width),
            ):
                if layer.name in others:
                    self._of(own, layer.name, width).absorb(others[layer.name])

    def clear(self) -> None:
        """Set all totals to zero."""
        for accumulator in (*self.A.values(), *self.S.values()):
            accumulator.clear()

    def accumulators(self, layer: AttributedLayer) -> tuple[Sums, Sums | None]:
        """Return the accumulators of A and S of one layer; of no sequences, their sums are zero."""
        A = self._of(self.A, layer.name, layer.input_width).of_width(layer.input_width)
        if layer.outputs != "factor":
            return A, None
        return A, self._of(self.S, layer.name, layer.output_width).of_width(layer.output_width)

    def _of(self, sums: dict[str, Sums], name: str, width: int) -> Sums:
        if name not in sums:
            sums[name] = self._begin(width)
        return sums[name]


class CovarianceTotals(FactorTotals[GramAccumulator]):
    """Totals of a aᵀ and Ds Dsᵀ.

    Args:
        blocks: number of blocks on the diagonal of each factor; entries outside them are not computed.
        dtype: the dtype of the sums; by default that of the passes' sums.
    """

    def __init__(self, blocks: int = 1, dtype: torch.dtype | None = None) -> None:
        super().__init__(lambda _width: GramAccumulator(blocks, dtype))

    def of(self, layer: AttributedLayer) -> Covariances:
        """Return the totals of one layer; of no sequences, they are zero."""
        A, S = self.accumulators(layer)
        return Covariances(A.moment(), None if S is None else S.moment())


def covariances(
    runner: Runner, sequences: Sequences, sampler: LabelSampler | None, *, blocks: int = 1
) -> dict[str, Covariances]:
    """Return the totals of a aᵀ and Ds Dsᵀ over the tokens of the sequences that carry a loss, in the model's order.

    Args:
        runner: runs the model.
        sequences: the training sequences.
        sampler: draws the labels; None takes the data's own, which gives the empirical Fisher.
        blocks: number of blocks on the diagonal of each factor.
    """
    totals = CovarianceTotals(blocks)
    measure(runner, sequences, [totals], {}, sampler)
    return {layer.name: totals.of(layer) for layer in runner.modules}
