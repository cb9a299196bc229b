"""A and S: the second moments of layers' inputs and output gradients, as totals over tokens."""

from collections import defaultdict
from dataclasses import dataclass

import torch

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.losses import LabelSampler
from influence_assets.capture.one_pass import measure
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner
from influence_assets.maths.moments import FactorMoment, GramAccumulator
from influence_assets.models.layers.rule import AttributedLayer


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
        dtype: the dtype of the sums; by default that of the passes' sums.
    """

    fits = True

    def __init__(self, blocks: int = 1, dtype: torch.dtype | None = None) -> None:
        self.A: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks, dtype))
        self.S: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks, dtype))

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's inputs and output gradients of a batch."""
        # Positions without a loss are left out: what the model computes for padding must not count in A.
        positions = batch.positions.to(layer.a.device)
        self.A[layer.name].add(layer.a.flatten(0, 1)[positions])
        self.S[layer.name].add(layer.Ds.flatten(0, 1)[positions])

    def absorb(self, other: "CovarianceTotals") -> None:
        """Add the totals of another part of the sequences."""
        for own, others in ((self.A, other.A), (self.S, other.S)):
            for name, accumulator in others.items():
                own[name].absorb(accumulator)

    def clear(self) -> None:
        """Set all totals to zero."""
        for accumulator in (*self.A.values(), *self.S.values()):
            accumulator.clear()

    def of(self, layer: AttributedLayer) -> Covariances:
        """Return the totals of one layer; of no sequences, they are zero."""
        A, S = self.accumulators(layer)
        return Covariances(A.moment(), S.moment())

    def accumulators(self, layer: AttributedLayer) -> tuple[GramAccumulator, GramAccumulator]:
        """Return the accumulators of A and S of one layer; of no sequences, their sums are zero."""
        return self.A[layer.name].of_width(layer.input_width), self.S[layer.name].of_width(layer.output_width)


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
