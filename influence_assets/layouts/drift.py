"""The layout of a shard's drift statistics: one short vector, whatever the shard's size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.covariance import Covariances
from influence_assets.capture.shard_statistics import ShardStatistics
from influence_assets.errors import StorageError
from influence_assets.maths.drift import BINS, RotatedFactor, block_sums, eigenvalue_drift, rotated_factor, sketch_width
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.maths.moments import SecondMoment
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft

SHARDS_AT_ONCE = 16
"""The number of shards whose statistics are in memory at a time."""

DRIFT = "drift"
"""The array of a shard's vector; of the shards that a generation is fitted on, [shard, numbers]."""

DRIFT_SEQUENCES = "drift_sequences"
"""The array of the numbers of sequences that the vectors of a generation's shards were measured on."""

Shapes = Mapping[str, Sequence[int]]
"""Each layer's (d_out, d_in), in the model's order."""


@dataclass(frozen=True)
class DriftStatistics:
    """Totals from which one layer's drift is computed, of one shard or several ([shards, ...]); they can be added.

    Args:
        A: the total of the input covariance, rotated into the frozen basis.
        S: the total of the output gradients' covariance, rotated likewise.
        Λ: block sums of the total of the corrected eigenvalues, [..., rows, columns].
    """

    A: RotatedFactor
    S: RotatedFactor
    Λ: Tensor


def drift_statistics(totals: Covariances, basis: Eigenbasis, Λ: SecondMoment[Tensor]) -> DriftStatistics:
    """Return one layer's statistics of a shard; the rotation runs on the basis's device and in its dtype."""
    A, S = (moment.total.to(basis.Q_A.device, basis.Q_A.dtype) for moment in (totals.A, totals.S))
    return DriftStatistics(rotated_factor(A, basis.Q_A), rotated_factor(S, basis.Q_S), block_sums(Λ.total))


def shard_drift(
    layers: Sequence[AttributedLayer], measured: ShardStatistics, bases: Mapping[str, Eigenbasis]
) -> np.ndarray:
    """Return a shard's vector, in the dtype of the bases, of what was measured in them."""
    statistics = {
        layer.name: drift_statistics(measured.covariances.of(layer), bases[layer.name], measured.corrections.of(layer))
        for layer in layers
    }
    (dtype,) = {basis.Q_A.dtype for basis in bases.values()}
    return packed(statistics).astype(str(dtype).removeprefix("torch."))


def write_shard_drift(draft: Draft, vectors: Sequence[np.ndarray], sequences: int) -> None:
    """Write the vector of a shard that came after the generation.

    Args:
        draft: the shard's artifact.
        vectors: what `shard_drift` returned for one group of layers after the other, in the model's order.
        sequences: the number of sequences that were measured.
    """
    draft.array(DRIFT, np.concatenate(vectors))
    draft.summarise(fitted=False, measured_sequences=sequences)


def packed(layers: Mapping[str, DriftStatistics]) -> np.ndarray:
    """Return all layers' statistics as one float64 vector.

    It holds, layer by layer, A's diagonal and sketch, S's diagonal and sketch, and Λ's blocks.
    """
    parts = (
        part.flatten()
        for layer in layers.values()
        for part in (layer.A.diagonal, layer.A.sketch, layer.S.diagonal, layer.S.sketch, layer.Λ)
    )
    return np.asarray(torch.cat(list(parts)).numpy())


def unpacked(vectors: Tensor, shapes: Shapes) -> dict[str, DriftStatistics]:
    """Return the statistics that `packed` packed.

    Args:
        vectors: float64 [..., numbers]: packed statistics of one shard, several, or the sum of several.
        shapes: the shapes of the packed layers, in their order.

    Raises:
        ValueError: the vectors belong to other layers.
    """
    sizes = [vector_sizes(*shape) for shape in shapes.values()]
    parts = iter(torch.split(vectors, [number for layer in sizes for number in layer], dim=-1))
    layers = {}
    for name, (d_out, d_in) in shapes.items():
        A, S = (RotatedFactor(next(parts), next(parts)) for _ in "AS")
        Λ = next(parts).reshape(*vectors.shape[:-1], min(BINS, d_out), min(BINS, d_in))
        layers[name] = DriftStatistics(A, S, Λ)
    return layers


def vector_sizes(d_out: int, d_in: int) -> tuple[int, int, int, int, int]:
    """Return the number of values in each part of a layer's statistics, in the order in which they are packed."""
    return d_in, sketch_width(d_in), d_out, sketch_width(d_out), min(BINS, d_out) * min(BINS, d_in)


def layer_drifts(layers: Mapping[str, DriftStatistics], counts: Tensor, q: Mapping[str, Tensor]) -> Tensor:
    """Return every layer's drift by every measure: float64 [layer, measure, ...].

    The drift of Λ is NaN if no sequence was counted.

    Args:
        layers: the statistics of one or several shards.
        counts: float64 [...]: the number of sequences that Λ was summed over.
        q: block sums of each layer's E[Λ] in the generation.
    """
    drifts = []
    for name, layer in layers.items():
        p = layer.Λ / counts[..., None, None]
        drifts.append(torch.stack([layer.A.drift(), layer.S.drift(), eigenvalue_drift(p, q[name])]))
    return torch.stack(drifts)


@dataclass(frozen=True)
class Drift:
    """How far shards have moved from a generation.

    Args:
        by_layer: float64 [layer, measure]: the drift of all shards together.
        by_shard: float64 [layer, measure, shard]: the drift of each shard by itself.
    """

    by_layer: np.ndarray
    by_shard: np.ndarray


def merged_drift(
    shards: Sequence[Artifact],
    generation: Artifact,
    eigenbases: Artifact,
    curvature: Artifact,
    progress: Callable[[int, int], None],
) -> Drift | None:
    """Return the drift of these shards from their generation; None if there are no shards.

    Args:
        shards: artifacts of `drift_statistics`.
        generation: the generation's corrected eigenvalues, which hold the vectors of the shards that it is fitted on.
        eigenbases: the generation.
        curvature: the generation's curvature.
        progress: called with the number of shards that are done, and of all shards.

    Raises:
        StorageError: a shard's vector belongs to other layers.
    """
    shapes: Shapes = eigenbases.manifest.summary["shapes"]
    q = {layer: block_sums(torch.from_numpy(curvature.array(f"{layer}.corrected_eigenvalues"))) for layer in shapes}
    total, count, by_shard = None, 0.0, []
    for vectors, counts in _statistics(shards, generation, shapes):
        by_shard.append(layer_drifts(unpacked(vectors, shapes), counts, q))
        for vector in vectors:  # one by one, so that sums do not depend on how many are read at once
            total = vector.clone() if total is None else total.add_(vector)
        count += float(counts.sum())
        progress(sum(part.shape[-1] for part in by_shard), len(shards))
    if total is None:
        return None
    by_layer = layer_drifts(unpacked(total, shapes), torch.tensor(count, dtype=torch.float64), q)
    return Drift(by_layer.numpy(), torch.cat(by_shard, dim=-1).numpy())


def _statistics(shards: Sequence[Artifact], generation: Artifact, shapes: Shapes) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield packed statistics [shards, numbers] and counts [shards] in float64, a few shards at a time."""
    numbers = sum(sum(vector_sizes(*shape)) for shape in shapes.values())
    row_of = {shard: row for row, shard in enumerate(generation.manifest.summary["fitted_shards"])}
    sequences = generation.array(DRIFT_SEQUENCES)
    for start in range(0, len(shards), SHARDS_AT_ONCE):
        few = shards[start : start + SHARDS_AT_ONCE]
        rows = [row_of[str(shard.key.partition)] for shard in few if shard.manifest.summary["fitted"]]
        fitted = generation.rows(DRIFT, min(rows), max(rows) + 1) if rows else np.zeros((0, numbers))
        vectors, counts = [], []
        for shard in few:
            if shard.manifest.summary["fitted"]:
                row = row_of[str(shard.key.partition)]
                vectors.append(fitted[row - min(rows)])
                counts.append(float(sequences[row]))
            else:
                vectors.append(shard.array(DRIFT))
                counts.append(float(shard.manifest.summary["measured_sequences"]))
            if vectors[-1].shape != (numbers,):
                raise StorageError(
                    f"{shard.folder}: its drift holds {vectors[-1].shape} numbers, not {numbers}. "
                    f"Delete {shard.folder} and compute it again: `influence run`."
                )
        stacked = torch.from_numpy(np.stack(vectors).astype(np.float64))
        yield stacked, torch.tensor(counts, dtype=torch.float64)
