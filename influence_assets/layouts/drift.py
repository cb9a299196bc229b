"""The layout of a shard's drift statistics: one short vector, whatever the shard's size."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from influence_assets.capture.covariance import Covariances
from influence_assets.capture.form import AnyStatistics
from influence_assets.capture.low_rank import LowRankStatistics
from influence_assets.errors import StorageError
from influence_assets.layouts.factors import form_of, layers_without_S, read_correction
from influence_assets.maths.curvature import Basis
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.drift import BINS, RotatedFactor, block_sums, eigenvalue_drift, rotated_factor, sketch_width
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.maths.identity import Identity
from influence_assets.maths.low_rank_drift import SubspaceFactor
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

    Of a layer without S that of S has no numbers, and is 0.

    Args:
        A: the total of the input covariance in the frozen basis.
        S: the total of the output gradients' covariance, likewise.
        Λ: block sums of the total of the corrected eigenvalues, [..., rows, columns].
    """

    A: RotatedFactor | SubspaceFactor
    S: RotatedFactor | SubspaceFactor
    Λ: Tensor


NO_FACTOR = RotatedFactor(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
"""In the place of S in a layer that has none."""


def drift_statistics(totals: Covariances, basis: Eigenbasis, Λ: Tensor) -> DriftStatistics:
    """Return one layer's statistics of a shard, given block sums of Λ.

    The rotation runs on the basis's device and in its dtype.
    """
    A = rotated_factor(totals.A.total.to(basis.Q_A.device, basis.Q_A.dtype), basis.Q_A)
    if totals.S is None or isinstance(basis.Q_S, Identity):
        return DriftStatistics(A, NO_FACTOR, Λ)
    S = totals.S.total.to(basis.Q_A.device, basis.Q_A.dtype)
    return DriftStatistics(A, rotated_factor(S, basis.Q_S), Λ)


def shard_drift(
    layers: Sequence[AttributedLayer], measured: AnyStatistics, bases: Mapping[str, Basis]
) -> npt.NDArray[np.floating[Any]]:
    """Return a shard's vector, in the dtype of the passes' sums, of what was measured in these bases.

    Statistics of low rank know their bases, and none need be given.
    """
    statistics = {layer.name: _of_layer(layer, measured, bases) for layer in layers}
    dtype = measured.dtype if isinstance(measured, LowRankStatistics) else _dtype_of(bases)
    return packed(statistics).astype(str(dtype).removeprefix("torch."))


def _dtype_of(bases: Mapping[str, Basis]) -> torch.dtype:
    """Return that of the eigenvectors; sums over a shard without sequences have none of their own."""
    (dtype,) = {basis.Q_A.dtype for basis in bases.values() if isinstance(basis, Eigenbasis)}
    return dtype


def _of_layer(layer: AttributedLayer, measured: AnyStatistics, bases: Mapping[str, Basis]) -> DriftStatistics:
    if isinstance(measured, LowRankStatistics):
        of_layer = measured.of(layer)
        return DriftStatistics(of_layer.A, of_layer.S, block_sums(of_layer.squared_norms.total))
    basis = bases[layer.name]
    assert isinstance(basis, Eigenbasis)  # noqa: S101  # as statistics of whole factors need
    return drift_statistics(measured.covariances.of(layer), basis, measured.eigenvalue_blocks(layer))


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

    It holds, layer by layer, A's diagonal and sketch, and of low rank its trace, the same of S, and Λ's blocks.
    """
    parts = (
        part.flatten()
        for layer in layers.values()
        for part in (*_parts_of_factor(layer.A), *_parts_of_factor(layer.S), layer.Λ)
    )
    return np.asarray(torch.cat(list(parts)).numpy())


def _parts_of_factor(factor: RotatedFactor | SubspaceFactor) -> tuple[Tensor, ...]:
    if isinstance(factor, RotatedFactor):
        return factor.diagonal, factor.sketch
    return factor.within.diagonal, factor.within.sketch, factor.trace[None]


def unpacked(
    vectors: Tensor, shapes: Shapes, form: CurvatureForm, without_S: Collection[str] = ()
) -> dict[str, DriftStatistics]:
    """Return the statistics that `packed` packed.

    Args:
        vectors: float64 [..., numbers]: packed statistics of one shard, several, or the sum of several.
        shapes: the shapes of the packed layers, in their order.
        form: how much of the factors is kept.
        without_S: the layers that have no S.

    Raises:
        ValueError: the vectors belong to other layers.
    """
    sizes = _sizes(shapes, form, without_S)
    parts = iter(torch.split(vectors, [number for layer in sizes for number in layer], dim=-1))
    layers = {}
    for name, (d_out, d_in) in shapes.items():
        A, S = (_factor(parts, form) for _ in "AS")
        layers[name] = DriftStatistics(A, S, next(parts).reshape(*vectors.shape[:-1], *_blocks(d_out, d_in, form)))
    return layers


def _sizes(shapes: Shapes, form: CurvatureForm, without_S: Collection[str]) -> list[tuple[int, ...]]:
    return [
        vector_sizes(d_out, d_in, replace(form, has_S=name not in without_S)) for name, (d_out, d_in) in shapes.items()
    ]


def _factor(parts: Iterator[Tensor], form: CurvatureForm) -> RotatedFactor | SubspaceFactor:
    within = RotatedFactor(next(parts), next(parts))
    return within if form.rank is None else SubspaceFactor(within, next(parts).squeeze(-1))


def _blocks(d_out: int, d_in: int, form: CurvatureForm) -> tuple[int, int]:
    """Return the numbers of rows and columns of block sums of Λ."""
    border = form.rank is not None
    r_S, r_A = form.kept(d_out, d_in)
    return min(BINS, r_S + border), min(BINS, r_A + border)


def vector_sizes(d_out: int, d_in: int, form: CurvatureForm) -> tuple[int, ...]:
    """Return the number of values in each part of a layer's statistics, in the order in which they are packed."""
    r_S, r_A = form.kept(d_out, d_in)
    trace = () if form.rank is None else (1,)
    blocks = math.prod(_blocks(d_out, d_in, form))
    of_S = r_S if form.has_S else 0
    return r_A, sketch_width(r_A), *trace, of_S, sketch_width(of_S), *trace, blocks


def layer_drifts(
    layers: Mapping[str, DriftStatistics],
    counts: Tensor,
    frozen: Mapping[str, DriftStatistics],
    q: Mapping[str, Tensor],
) -> Tensor:
    """Return every layer's drift by every measure: float64 [layer, measure, ...].

    The drift of Λ is NaN if no sequence was counted.

    Args:
        layers: the statistics of one or several shards.
        counts: float64 [...]: the number of sequences that Λ was summed over.
        frozen: the statistics of all that the generation was fitted on.
        q: block sums of each layer's E[Λ] in the generation.
    """
    drifts = []
    for name, layer in layers.items():
        p = layer.Λ / counts[..., None, None]
        A, S = _drift_of(layer.A, frozen[name].A), _drift_of(layer.S, frozen[name].S)
        drifts.append(torch.stack([A, S, eigenvalue_drift(p, q[name])]))
    return torch.stack(drifts)


def _drift_of(factor: RotatedFactor | SubspaceFactor, frozen: RotatedFactor | SubspaceFactor) -> Tensor:
    if isinstance(factor, RotatedFactor):
        return factor.drift()
    assert isinstance(frozen, SubspaceFactor)  # noqa: S101  # one generation has one form
    return factor.drift_from(frozen)


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
    progress: Callable[[int, int], None],
) -> Drift | None:
    """Return the drift of these shards from their generation; None if there are no shards.

    Args:
        shards: artifacts of `drift_statistics`.
        generation: the generation's corrected eigenvalues, which hold the vectors of the shards that it is fitted on.
        eigenbases: the generation.
        progress: called with the number of shards that are done, and of all shards.

    Raises:
        StorageError: a shard's vector belongs to other layers.
    """
    shapes: Shapes = eigenbases.manifest.summary["shapes"]
    form = form_of(eigenbases)
    q = {layer: block_sums(read_correction(generation, layer).mean()) for layer in shapes}
    without_S = layers_without_S(eigenbases)
    numbers = sum(map(sum, _sizes(shapes, form, without_S)))
    # Nothing of what whole eigenvectors were fitted on has drifted from them.
    fitted = torch.zeros(numbers, dtype=torch.float64) if form.rank is None else _fitted_total(generation, numbers)
    frozen = unpacked(fitted, shapes, form, without_S)
    total, count, by_shard = None, 0.0, []
    for vectors, counts in _statistics(shards, generation, numbers):
        by_shard.append(layer_drifts(unpacked(vectors, shapes, form, without_S), counts, frozen, q))
        for vector in vectors:  # one by one, so that sums do not depend on how many are read at once
            total = vector.clone() if total is None else total.add_(vector)
        count += float(counts.sum())
        progress(sum(part.shape[-1] for part in by_shard), len(shards))
    if total is None:
        return None
    counted = torch.tensor(count, dtype=torch.float64)
    by_layer = layer_drifts(unpacked(total, shapes, form, without_S), counted, frozen, q)
    return Drift(by_layer.numpy(), torch.cat(by_shard, dim=-1).numpy())


def _fitted_total(generation: Artifact, numbers: int) -> Tensor:
    """Return the sum of the packed statistics of all shards that a generation was fitted on."""
    shards = len(generation.manifest.summary["fitted_shards"])
    total = np.zeros(numbers)
    for start in range(0, shards, SHARDS_AT_ONCE):
        vectors = generation.rows(DRIFT, start, min(start + SHARDS_AT_ONCE, shards))
        _refuse_others(generation, vectors.shape[1:], numbers)
        total += vectors.sum(0, dtype=np.float64)
    return torch.from_numpy(total)


def _refuse_others(artifact: Artifact, shape: tuple[int, ...], numbers: int) -> None:
    if shape != (numbers,):
        raise StorageError(
            f"{artifact.folder}: its drift holds {shape} numbers, not {numbers}. "
            f"Delete {artifact.folder} and compute it again: `influence run`."
        )


def _statistics(shards: Sequence[Artifact], generation: Artifact, numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield packed statistics [shards, numbers] and counts [shards] in float64, a few shards at a time."""
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
            _refuse_others(shard, vectors[-1].shape, numbers)
        stacked = torch.from_numpy(np.stack(vectors).astype(np.float64))
        yield stacked, torch.tensor(counts, dtype=torch.float64)
