"""Whitened training gradients at a few coordinates, from which scores are estimated."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Sequences
from influence_assets.capture.layer_gradient import GradientBuffers, LayerGradient
from influence_assets.capture.runner import Runner, refuse_not_finite
from influence_assets.maths.ekfac import LayerCurvature
from influence_assets.maths.influence import layer_scores
from influence_assets.maths.sketches import Coordinates, layer_sketch, whitened_squared_norms
from influence_assets.models.layers.rule import LinearModule


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


class SketchRows:
    """Whitened gradients of one batch after another, at the kept coordinates.

    Args:
        runner: the model.
        curvature: of every layer.
        coordinates: which to keep.
        probes: each layer's preconditioned gradients P [probe, d_out, d_in] of a few questions, in the eigenbases,
            whose exact scores the sketches are to estimate.
    """

    def __init__(
        self,
        runner: Runner,
        curvature: Mapping[str, LayerCurvature],
        coordinates: Coordinates,
        probes: Mapping[str, Tensor],
    ) -> None:
        self._order = [linear.name for linear in runner.modules]
        self._device = runner.device
        self._curvature = runner.placed(curvature)
        self._kept = runner.placed(coordinates.kept)
        self._probes = runner.placed(probes)
        self._weights = {name: (layer.Λ + layer.λ).reciprocal() for name, layer in self._curvature.items()}
        self._parts: dict[str, Tensor] = {}
        self._squared_norms: list[Tensor] = []
        self._exact: list[Tensor] = []

    def add(self, layer: LayerGradient) -> None:
        """Add a layer of the batch."""
        curvature = self._curvature[layer.name]
        norms = whitened_squared_norms(layer.rotated, self._weights[layer.name])
        self._squared_norms.append(norms.double().to(self._device))
        self._parts[layer.name] = layer_sketch(curvature, layer.rotated, self._kept[layer.name]).to(self._device)
        exact = layer_scores(self._probes[layer.name], layer.rotated, 1)
        self._exact.append(exact.double().to(self._device))

    def batch(self) -> WhitenedBatch:
        """What was added since the last one, which must be all layers."""
        whole = torch.cat([self._parts[name] for name in self._order], dim=1)
        norms, scored = (torch.stack(layers).sum(0).cpu().numpy() for layers in (self._squared_norms, self._exact))
        for added in (self._parts, self._squared_norms, self._exact):
            added.clear()
        return WhitenedBatch(whole.float().cpu().numpy(), norms, scored)


def sketches(
    runner: Runner,
    sequences: Sequences,
    curvature: Mapping[str, LayerCurvature],
    coordinates: Coordinates,
    probes: Mapping[str, Tensor],
) -> Iterator[WhitenedBatch]:
    """Whitened training gradients at the kept coordinates, and the exact scores that they are to estimate.

    Args:
        runner: the model.
        sequences: the training sequences.
        curvature: of every layer.
        coordinates: which to keep.
        probes: see `SketchRows`.

    Yields:
        Batch after batch of the sequences, in order.
    """
    curvature = runner.placed(curvature)
    found, places = SketchRows(runner, curvature, coordinates, probes), GradientBuffers()

    def consume(linear: LinearModule, a: Tensor, Ds: Tensor) -> None:
        found.add(LayerGradient(linear.name, a, Ds, curvature[linear.name].basis, places))

    for _, forward in runner.passes(sequences, by_length=False):
        refuse_not_finite(forward.backward(consume).double().cpu().numpy())
        yield found.batch()


def query_sketches(
    V: Mapping[str, Tensor], curvature: Mapping[str, LayerCurvature], coordinates: Coordinates, N: int
) -> np.ndarray:
    """What training sketches are multiplied with to estimate scores in nats: float32 [query, width], −1/N included.

    Args:
        V: each layer's query gradients in the eigenbases.
        curvature: of every layer.
        coordinates: that are kept.
        N: training sequences of the generation.
    """
    parts = [layer_sketch(layer, V[name], coordinates.kept[name]) for name, layer in curvature.items()]
    return (-torch.cat(parts, dim=1) / N).float().cpu().numpy()
