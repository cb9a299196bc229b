"""A shard's own A, S and Λ in one pass: what says how far the shard is from the basis that it is measured in."""

from torch import Tensor

from influence_assets.capture.batches import Batch
from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import CovarianceTotals
from influence_assets.capture.layer_gradient import LayerGradient
from influence_assets.capture.participant import Participant
from influence_assets.maths.drift import block_sums
from influence_assets.models.layers.rule import AttributedLayer


class ShardStatistics(Participant):
    """Totals of A, S and Λ of every layer over one shard.

    Args:
        blocks: number of blocks on the diagonal of each factor.
        running: totals of Λ over earlier shards, in float64, to which this shard's are added; what the shard adds is
            then known in blocks alone, which takes no memory. None: totals of the shard's own.
    """

    fits = True
    needs_bases = True
    rotates = True

    def __init__(self, blocks: int = 1, running: CorrectionTotals | None = None) -> None:
        self.covariances = CovarianceTotals(blocks)
        self.corrections = CorrectionTotals() if running is None else running
        self.is_running = running is not None
        self._earlier: dict[str, Tensor] = {}
        """Block sums of the running totals before the shard."""
        self._now: dict[str, Tensor] = {}
        """Those after it, as far as they have been asked for."""

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch."""
        self.covariances.add(batch, layer)
        self.corrections.add(batch, layer)

    def eigenvalue_blocks(self, layer: AttributedLayer) -> Tensor:
        """Return the block sums of a layer's Λ over the shard, in float64."""
        self._now[layer.name] = blocks = block_sums(self.corrections.of(layer).total)
        return blocks - self._earlier[layer.name] if layer.name in self._earlier else blocks

    def clear(self) -> None:
        """Begin the next shard; running totals stay."""
        self.covariances.clear()
        if self.is_running:
            unknown = self.corrections.Λ.keys() - self._now.keys()
            sums = {name: block_sums(self.corrections.Λ[name].moment().total) for name in unknown}
            self._earlier, self._now = self._now | sums, {}
        else:
            self.corrections.clear()
