"""Λ: the second moments of rotated sequence gradients, as totals over sequences."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.maths.moments import SecondMoment, SquareAccumulator
from influence_assets.models.layers.rule import AttributedLayer


class CorrectionTotals(Participant):
    """Totals of the squared rotated gradients of every layer over sequences with a token that carries a loss.

    Args:
        dtype: the dtype of the sums; by default that of the passes' sums.
    """

    fits = True
    needs_bases = True
    rotates = True

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.Λ: dict[str, SquareAccumulator] = defaultdict(lambda: SquareAccumulator(dtype))

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch; those of sequences without a loss are zero, and are not counted."""
        self.Λ[layer.name].add(layer.rotated, layer.counted_sequences(batch), layer.rows)

    def absorb(self, other: "CorrectionTotals") -> None:
        """Add the totals of another part of the sequences."""
        for name, accumulator in other.Λ.items():
            self.Λ[name].absorb(accumulator)

    def clear(self) -> None:
        """Set all totals to zero."""
        for accumulator in self.Λ.values():
            accumulator.clear()

    def of(self, layer: AttributedLayer) -> SecondMoment[Tensor]:
        """Return the total of one layer; of no sequences, it is zero."""
        return self.Λ[layer.name].of_shape(layer.output_width, layer.input_width).moment()


def eigenvalue_corrections(
    runner: Runner, sequences: Sequences, bases: Mapping[str, Eigenbasis], sampler: LabelSampler | None
) -> dict[str, SecondMoment[Tensor]]:
    """Return the totals of Λ over the sequences, in the frozen bases; labels as in `covariances`."""
    totals = CorrectionTotals()
    measure(runner, sequences, [totals], bases, sampler)
    return {layer.name: totals.of(layer) for layer in runner.modules}
