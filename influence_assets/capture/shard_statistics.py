"""A shard's own A, S and Λ in one pass: what says how far the shard is from the basis that it is measured in."""

from influence_assets.capture.batches import Batch
from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import CovarianceTotals
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.participant import Participant


class ShardStatistics(Participant):
    """Totals of A, S and Λ of every layer over one shard.

    Args:
        blocks: number of blocks on the diagonal of each factor.
    """

    fits = True
    needs_bases = True
    rotates = True

    def __init__(self, blocks: int = 1) -> None:
        self.covariances = CovarianceTotals(blocks)
        self.corrections = CorrectionTotals()

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch."""
        self.covariances.add(batch, layer)
        self.corrections.add(batch, layer)

    def clear(self) -> None:
        """Set all totals to zero, for the next shard."""
        self.covariances.clear()
        self.corrections.clear()
