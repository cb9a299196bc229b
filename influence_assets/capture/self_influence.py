"""Self-influence, gᵀ (H + λ)⁻¹ g / N, of every training sequence and of every document's part of one.

It is the score of a sequence for itself: the first-order change of its own log-likelihood, in nats, if it were added
once more to the N training sequences (Koh & Liang 2017, Sec. 5.4; Pruthi et al. 2020, Sec. 4). A part's gradient g is
the sum over the part's positions, as in `scores.py`. The form is quadratic in g, so parts do not sum to the sequence.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Parts
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient, RotatedAxes
from influence_assets.capture.participant import Participant
from influence_assets.capture.parts_of_batch import PartsOfBatch
from influence_assets.maths.curvature import Curvature
from influence_assets.maths.notation import device_of_sums, in_float64

_BOTH = RotatedAxes(S=True, A=True)


class SelfInfluenceTotals(Participant):
    """Totals of gᵀ (H + λ)⁻¹ g over layers, of every sequence and every part.

    Args:
        sequences: number of sequences that will be measured.
        parts: the documents of the sequences that have several.
        N: training sequences of the generation.
        device: the device of the passes.
    """

    needs_bases = True
    rotates = True

    def __init__(self, sequences: int, parts: Parts, N: int, device: str) -> None:
        self._N = N
        self._device = device_of_sums(device)
        self._sequences = torch.zeros(sequences, dtype=torch.float64, device=self._device)
        self._parts = torch.zeros(len(parts), dtype=torch.float64, device=self._device)
        self._of_batch = PartsOfBatch(parts, device)
        self._buffers = GradientBuffers()
        self._curvature: Mapping[str, Curvature] = {}

    def hold(self, curvature: Mapping[str, Curvature]) -> None:
        """Hold the curvature of the layers of the next pass, each on its layer's device."""
        self._curvature = curvature

    def release(self) -> None:
        """Free the curvature of the last pass."""
        self._curvature = {}

    def add(self, batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's share of a batch."""
        curvature = self._curvature[layer.name]
        own = curvature.self_products(layer.terms.Ds, layer.terms.a, lambda: layer.rotated, layer.rows)
        rows = torch.from_numpy(batch.rows).to(self._device, non_blocking=True)
        self._sequences.index_add_(0, rows, in_float64(own).to(self._device))
        for parts, numbers in self._of_batch.chunks(batch):
            of_parts = self._of_parts(curvature, layer, parts)
            self._parts.index_add_(0, numbers, in_float64(of_parts).to(self._device))

    def _of_parts(self, curvature: Curvature, layer: LayerGradient, parts: Parts) -> Tensor:
        terms = layer.terms_of(parts)
        return curvature.self_products(
            terms.Ds, terms.a, lambda: layer.of_terms(_BOTH, terms, self._buffers), layer.rows
        )

    @property
    def sequences(self) -> np.ndarray:
        """The self-influence of every sequence, float64 [sequence], in nats."""
        return np.asarray(self._sequences.cpu().numpy() / self._N)

    @property
    def parts(self) -> np.ndarray:
        """The self-influence of every part, float64 [part], in nats."""
        return np.asarray(self._parts.cpu().numpy() / self._N)
