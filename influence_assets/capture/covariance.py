"""A and S: the second moments of layers' inputs and output gradients, as totals over tokens."""

from collections import defaultdict
from dataclasses import dataclass

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
    """Sums a aᵀ and Ds Dsᵀ of every layer over the tokens that carry a loss.

    The totals of all layers are in memory at once, each on its layer's device: a pass goes through all of them.

    Args:
        blocks: on the diagonal of each factor; nothing else of it is made.
    """

    fits = True

    def __init__(self, blocks: int = 1) -> None:
        self._A: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks))
        self._S: dict[str, GramAccumulator] = defaultdict(lambda: GramAccumulator(blocks))

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add a layer of a batch."""
        # Positions without a loss are left out: in A they would weigh with whatever the model makes of padding.
        positions = batch.positions.to(layer.a.device)
        self._A[layer.name].add(layer.a.flatten(0, 1)[positions])
        self._S[layer.name].add(layer.Ds.flatten(0, 1)[positions])

    def totals(self, runner: Runner) -> dict[str, Covariances]:
        """Return the totals of each layer, in the model's order."""
        return {m.name: Covariances(self._A[m.name].moment(), self._S[m.name].moment()) for m in runner.modules}


def covariances(
    runner: Runner, sequences: Sequences, sampler: LabelSampler | None, *, blocks: int = 1
) -> dict[str, Covariances]:
    """Return totals of a aᵀ and Ds Dsᵀ over the tokens of the sequences that carry a loss.

    Args:
        runner: the model.
        sequences: what is measured.
        sampler: draws the labels; None: the data's own, the empirical Fisher.
        blocks: on the diagonal of each factor.
    """
    totals = CovarianceTotals(blocks)

    def consumer(batch: Batch) -> Consumer:
        return lambda linear, a, Ds: totals.add(batch, LayerGradient(linear.name, a, Ds))

    runner.run(sequences, consumer, sampler=sampler)
    return totals.totals(runner)
