"""Λ: the second moments of rotated sequence gradients, as totals over sequences."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.maths.moments import SecondMoment, SquareAccumulator


class CorrectionTotals(Participant):
    """Totals of the squared rotated gradients of every layer over sequences with a token that carries a loss."""

    fits = True
    needs_bases = True
    rotates = True

    def __init__(self) -> None:
        self._Λ: dict[str, SquareAccumulator] = defaultdict(SquareAccumulator)

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch; those of sequences without a loss are zero, and are not counted."""
        self._Λ[layer.name].add(layer.rotated, batch.counted_sequences)

    def totals(self, runner: Runner) -> dict[str, SecondMoment[Tensor]]:
        """Return the totals of each layer, in the model's order."""
        for linear in runner.modules:
            if linear.name not in self._Λ:
                self._Λ[linear.name].add(torch.zeros(0, linear.output_width, linear.input_width))
        return {linear.name: self._Λ[linear.name].moment() for linear in runner.modules}


def eigenvalue_corrections(
    runner: Runner, sequences: Sequences, bases: Mapping[str, Eigenbasis], sampler: LabelSampler | None
) -> dict[str, SecondMoment[Tensor]]:
    """Return the totals of Λ over the sequences, in the frozen bases; labels as in `covariances`."""
    totals, buffers = CorrectionTotals(), GradientBuffers()
    bases = runner.placed(bases)

    def consumer(batch: Batch) -> Consumer:
        return lambda linear, a, Ds: totals.add(batch, LayerGradient(linear.name, a, Ds, bases[linear.name], buffers))

    runner.run(sequences, consumer, sampler=sampler)
    return totals.totals(runner)
