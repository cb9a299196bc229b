"""Sketches: whitened training gradients at a few coordinates, from which scores are estimated."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient
from influence_assets.capture.layer_vectors import placed
from influence_assets.capture.participant import Participant
from influence_assets.capture.runner import Runner, refuse_not_finite
from influence_assets.maths.curvature import Curvature
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.influence import layer_scores
from influence_assets.maths.notation import device_of_sums, in_float64
from influence_assets.maths.sketches import Coordinates, Whitened
from influence_assets.models.layers.rule import AttributedLayer


@dataclass(frozen=True)
class WhitenedBatch:
    """Whitened gradients of a few training sequences.

    Args:
        rows: float32 [sequence, width], at the kept coordinates.
        squared_norms: float64 [sequence], ‖w‖² over all coordinates.
        exact: float64 [probe, sequence]: −⟨P, G⟩, not divided by N.
    """

    rows: np.ndarray
    squared_norms: np.ndarray
    exact: np.ndarray


class SketchRows(Participant):
    """A collector of whitened gradients at the kept coordinates, batch after batch.

    Args:
        runner: runs the model.
        curvature: the curvature of every layer.
        coordinates: the coordinates to keep.
        probes: each layer's preconditioned gradients P [probe, d_out, d_in] of a few queries, in the coordinates of its
            basis, whose exact scores are compared with the sketches' estimates.
        receive: called with each batch's whitened gradients.
    """

    needs_bases = True
    rotates = True
    in_order = True

    def __init__(
        self,
        runner: Runner,
        curvature: Mapping[str, Curvature],
        coordinates: Coordinates,
        probes: Mapping[str, Tensor],
        receive: Callable[[WhitenedBatch], None],
    ) -> None:
        self._receive = receive
        self._order = [linear.name for linear in runner.modules]
        self._device = runner.device
        self._sums_on = device_of_sums(runner.device)
        self._probes = placed(probes, runner.modules)
        kept = runner.placed(coordinates.kept)
        self._whitenings = {n: layer.whitening(kept[n]) for n, layer in runner.placed(curvature).items()}
        self._parts: dict[str, Tensor] = {}
        self._squared_norms: list[Tensor] = []
        self._exact: list[Tensor] = []

    def add(self, _batch: Batch, layer: LayerGradient) -> None:
        """Add one layer's gradients of a batch."""
        whitening, terms = self._whitenings[layer.name], layer.terms
        rows, norms = whitening.of_tokens(terms.Ds, terms.a, layer.rotated, layer.rows)
        self._squared_norms.append(in_float64(norms).to(self._sums_on))
        earlier = self._parts.get(layer.name)  # of other rows, where this one has none
        self._parts[layer.name] = rows.to(self._device) if earlier is None else earlier.add_(rows.to(self._device))
        exact = layer_scores(layer.of_rows(self._probes[layer.name]), layer.rotated, 1)
        self._exact.append(in_float64(exact).to(self._sums_on))

    def end_batch(self) -> None:
        """Pass the batch's gradients to `receive`; all layers must have been added."""
        whole = torch.cat([self._parts[name] for name in self._order], dim=1)
        norms, scored = (torch.stack(layers).sum(0).cpu().numpy() for layers in (self._squared_norms, self._exact))
        for collection in (self._parts, self._squared_norms, self._exact):
            collection.clear()
        self._receive(WhitenedBatch(whole.float().cpu().numpy(), norms, scored))


def sketches(
    runner: Runner,
    sequences: Sequences,
    curvature: Mapping[str, Curvature],
    coordinates: Coordinates,
    probes: Mapping[str, Tensor],
) -> Iterator[WhitenedBatch]:
    """Yield whitened training gradients at the kept coordinates, and the probes' exact scores, batch after batch.

    Args:
        runner: runs the model.
        sequences: the training sequences.
        curvature: the curvature of every layer.
        coordinates: the coordinates to keep.
        probes: see `SketchRows`.

    Yields:
        Batches of the sequences, in order.
    """
    curvature = runner.placed(curvature)
    batches: list[WhitenedBatch] = []
    rows, buffers = SketchRows(runner, curvature, coordinates, probes, batches.append), GradientBuffers()

    for batch, forward in runner.passes(sequences, by_length=False):

        def consume(linear: AttributedLayer, terms: GradientTerms, batch: Batch = batch) -> None:
            for layer in LayerGradient(linear.name, terms, curvature[linear.name].basis, buffers).blocks():
                rows.add(batch, layer)

        refuse_not_finite(forward.backward(consume).cpu().double().numpy())
        rows.end_batch()
        yield batches.pop()


def query_sketches(
    V: Mapping[str, Tensor], curvature: Mapping[str, Whitened], coordinates: Coordinates, N: int
) -> np.ndarray:
    """Return the queries' factors of the scores that sketches estimate: float32 [query, width], in nats.

    Args:
        V: each layer's query gradients in the coordinates of its basis.
        curvature: the curvature of every layer.
        coordinates: the kept coordinates.
        N: training sequences of the generation.
    """
    parts = [layer.whitening(coordinates.kept[n]).of_gradients(V[n]) for n, layer in curvature.items()]
    return (-torch.cat(parts, dim=1) / N).float().cpu().numpy()
