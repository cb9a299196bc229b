"""A and S: the second moments of layers' inputs and output gradients, as totals over tokens."""

from collections import defaultdict
from dataclasses import dataclass

import torch

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.moments import FactorMoment, GramAccumulator


@dataclass(frozen=True)
class Covariances:
    """A and S of one layer, as totals over tokens."""

    A: FactorMoment
    S: FactorMoment


class CovarianceTotals(Participant):
    """Totals of a aᵀ and Ds Dsᵀ of every layer over the tokens that carry a loss.

    A pass goes through all layers, so the totals of all of them are in memory at once, each on its layer's device.

    Args:
        blocks: number of blocks on the diagonal of each factor; entries outside them are not computed.
    """

    fits = True

    def __init__(self, blocks: int = 1) -> None:
        self._A: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks))
        self._S: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks))

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's inputs and output gradients of a batch."""
        # Positions without a loss are left out: what the model computes for padding must not count in A.
        positions = batch.positions.to(layer.a.device)
        self._A[layer.name].add(layer.a.flatten(0, 1)[positions])
        self._S[layer.name].add(layer.Ds.flatten(0, 1)[positions])

    def totals(self, runner: Runner) -> dict[str, Covariances]:
        """Return the totals of each layer, in the model's order; of no sequences, they are zero."""
        for m in runner.modules:
            if m.name not in self._A:
                self._A[m.name].add(torch.zeros(0, m.input_width))
                self._S[m.name].add(torch.zeros(0, m.output_width))
        return {m.name: Covariances(self._A[m.name].moment(), self._S[m.name].moment()) for m in runner.modules}


def covariances(
    runner: Runner, sequences: Sequences, sampler: LabelSampler | None, *, blocks: int = 1
) -> dict[str, Covariances]:
    """Return the totals of a aᵀ and Ds Dsᵀ over the tokens of the sequences that carry a loss.

    Args:
        runner: runs the model.
        sequences: the training sequences.
        sampler: draws the labels; None takes the data's own, which gives the empirical Fisher.
        blocks: number of blocks on the diagonal of each factor.
    """
    totals = CovarianceTotals(blocks)

    def consumer(batch: Batch) -> Consumer:
        return lambda linear, a, Ds: totals.add(batch, LayerGradient(linear.name, a, Ds))

    runner.run(sequences, consumer, sampler=sampler)
    return totals.totals(runner)
