"""The step `curvature_drift`, and what it adds up: one short array a shard, whatever the shard's size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from influence_assets.capture.covariance import Covariances
from influence_assets.errors import StorageError
from influence_assets.maths.drift import BINS, RotatedFactor, block_sums, eigenvalue_drift, rotated_factor, sketch_width
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.maths.moments import SecondMoment
from influence_assets.pipeline.steps import Work
from influence_assets.storage.artifacts import Artifact

MEASURES = ("A", "S", "eigenvalues")
"""What drifts, as the tables name it."""

SHARDS_AT_ONCE = 16
"""Shards whose statistics are held in memory together."""

LAYER_DRIFT_SCHEMA = pl.Schema(
    {
        "generation_id": pl.Int32,
        "module_name": pl.String,
        "measure": pl.String,
        "drift": pl.Float64,
        "threshold": pl.Float64,
        "shards": pl.Int64,
        "fitted_shards": pl.Int64,
    }
)
SHARD_DRIFT_SCHEMA = pl.Schema({"shard_id": pl.String, "fitted": pl.Boolean, "measure": pl.String, "drift": pl.Float64})

Shapes = Mapping[str, Sequence[int]]
"""Each layer's (d_out, d_in), in the model's order."""


@dataclass(frozen=True)
class DriftStatistics:
    """What one layer's drift is computed from, of one shard or of several ([shards, ...]); totals, so that they add up.

    Args:
        A: of the input covariance, rotated into the frozen basis.
        S: of the output gradients' covariance, likewise.
        Λ: block sums of the total of the corrected eigenvalues, [..., rows, columns].
    """

    A: RotatedFactor
    S: RotatedFactor
    Λ: Tensor


def drift_statistics(totals: Covariances, basis: Eigenbasis, Λ: SecondMoment[Tensor]) -> DriftStatistics:
    """One layer's statistics of a shard; the rotation runs on the basis's device and in its dtype."""
    A, S = (moment.total.to(basis.Q_A.device, basis.Q_A.dtype) for moment in (totals.A, totals.S))
    return DriftStatistics(rotated_factor(A, basis.Q_A), rotated_factor(S, basis.Q_S), block_sums(Λ.total))


def packed(layers: Mapping[str, DriftStatistics]) -> np.ndarray:
    """All layers' statistics as one float64 vector: A's diagonal and sketch, S's, then Λ's blocks, layer by layer."""
    parts = (
        part.flatten()
        for layer in layers.values()
        for part in (layer.A.diagonal, layer.A.sketch, layer.S.diagonal, layer.S.sketch, layer.Λ)
    )
    return np.asarray(torch.cat(list(parts)).numpy())


def unpacked(vectors: Tensor, shapes: Shapes) -> dict[str, DriftStatistics]:
    """What `packed` packed.

    Args:
        vectors: float64 [..., numbers]: of one shard, of the sum of several, or of several.
        shapes: of the layers that were packed, in their order.

    Raises:
        ValueError: the vectors are not of these layers.
    """
    sizes = [_sizes(*shape) for shape in shapes.values()]
    parts = iter(torch.split(vectors, [number for layer in sizes for number in layer], dim=-1))
    layers = {}
    for name, (d_out, d_in) in shapes.items():
        A, S = (RotatedFactor(next(parts), next(parts)) for _ in "AS")
        Λ = next(parts).reshape(*vectors.shape[:-1], min(BINS, d_out), min(BINS, d_in))
        layers[name] = DriftStatistics(A, S, Λ)
    return layers


def _sizes(d_out: int, d_in: int) -> tuple[int, int, int, int, int]:
    return d_in, sketch_width(d_in), d_out, sketch_width(d_out), min(BINS, d_out) * min(BINS, d_in)


def layer_drifts(layers: Mapping[str, DriftStatistics], counts: Tensor, q: Mapping[str, Tensor]) -> Tensor:
    """Every layer's drift by every measure: float64 [layer, measure, ...], NaN for Λ where no sequence was counted.

    Args:
        layers: the statistics, of one or several shards.
        counts: float64 [...]: sequences that Λ was summed over.
        q: block sums of each layer's E[Λ] in the generation.
    """
    found = []
    for name, layer in layers.items():
        p = layer.Λ / counts[..., None, None]
        found.append(torch.stack([layer.A.drift(), layer.S.drift(), eigenvalue_drift(p, q[name])]))
    return torch.stack(found)


def curvature_drift(work: Work) -> None:
    """How far the totals of all shards that there are now have moved from the frozen generation, layer by layer.

    It reads one short array a shard, never their covariances. Shards are merged in the order of their names.
    """
    frozen, curvature = work.open("eigenbases"), work.open("curvature")
    shards = work.open_all("corrected_eigenvalues")
    shapes: Shapes = frozen.manifest.summary["shapes"]
    q = {layer: block_sums(torch.from_numpy(curvature.array(f"{layer}.corrected_eigenvalues"))) for layer in shapes}
    fitted = _fitted(shards, frozen)
    total, count, own = None, 0.0, []
    for vectors, counts in _statistics(shards, shapes):
        own.append(layer_drifts(unpacked(vectors, shapes), counts, q))
        for vector in vectors:  # one after the other: sums do not depend on how many are read at once
            total = vector.clone() if total is None else total.add_(vector)
        count += float(counts.sum())
        work.progress(sum(part.shape[-1] for part in own), len(shards))
    if total is None:  # every document was withdrawn: nothing is left that could have moved
        work.draft.table("layer_drift", pl.DataFrame(schema=LAYER_DRIFT_SCHEMA))
        work.draft.table("shard_drift", pl.DataFrame(schema=SHARD_DRIFT_SCHEMA))
        work.draft.summarise(generation_id=frozen.manifest.summary["generation_id"], exceeds=False, shards=0)
        return
    drifts = layer_drifts(unpacked(total, shapes), torch.tensor(count, dtype=torch.float64), q)
    layers = _layer_rows(work, list(shapes), drifts.numpy()).with_columns(
        pl.lit(frozen.manifest.summary["generation_id"], pl.Int32).alias("generation_id"),
        pl.lit(len(shards), pl.Int64).alias("shards"),
        pl.lit(len(frozen.manifest.summary["fitted_shards"]), pl.Int64).alias("fitted_shards"),
    )
    work.draft.table("layer_drift", layers.select(LAYER_DRIFT_SCHEMA.names()).cast(LAYER_DRIFT_SCHEMA))
    work.draft.table("shard_drift", _shard_rows(shards, fitted, torch.cat(own, dim=-1).numpy()))
    work.draft.summarise(**_summary(layers, fitted))


def _fitted(shards: Sequence[Artifact], frozen: Artifact) -> list[bool]:
    """Whether each shard's covariances are among those that the generation was fitted on."""
    versions: Mapping[str, str] = frozen.manifest.summary["fitted_shards"]
    found = []
    for shard in shards:
        (covariances,) = (key for key in shard.manifest.inputs if key.asset == "covariances")
        found.append(versions.get(str(shard.key.partition)) == covariances.data_version)
    return found


def _statistics(shards: Sequence[Artifact], shapes: Shapes) -> Iterator[tuple[Tensor, Tensor]]:
    """Packed statistics [shards, numbers] and counts [shards] of a few shards at a time."""
    numbers = sum(sum(_sizes(*shape)) for shape in shapes.values())
    for start in range(0, len(shards), SHARDS_AT_ONCE):
        few = shards[start : start + SHARDS_AT_ONCE]
        vectors = [shard.array("drift") for shard in few]
        for shard, vector in zip(few, vectors, strict=True):
            if vector.shape != (numbers,):
                raise StorageError(
                    f"{shard.folder}: its drift holds {vector.shape} numbers, not {numbers}. "
                    f"Delete {shard.folder} and compute it again: `influence run`."
                )
        counts = [float(shard.manifest.summary["counted_sequences"]) for shard in few]
        yield torch.from_numpy(np.stack(vectors)), torch.tensor(counts, dtype=torch.float64)


def _layer_rows(work: Work, modules: list[str], drifts: np.ndarray) -> pl.DataFrame:
    """One row for each layer and measure of [layer, measure]."""
    return pl.DataFrame(
        {
            "module_name": np.repeat(modules, len(MEASURES)),
            "measure": list(MEASURES) * len(modules),
            "drift": drifts.reshape(-1),
            "threshold": work.study.curvature.drift_threshold,
        }
    )


def _shard_rows(shards: Sequence[Artifact], fitted: list[bool], drifts: np.ndarray) -> pl.DataFrame:
    """One row for each shard and measure: the median over layers of [layer, measure, shard]."""
    return pl.DataFrame(
        {
            "shard_id": np.repeat([str(shard.key.partition) for shard in shards], len(MEASURES)),
            "fitted": np.repeat(fitted, len(MEASURES)),
            "measure": list(MEASURES) * len(shards),
            "drift": np.median(drifts, axis=0).T.reshape(-1),
        },
        schema=SHARD_DRIFT_SCHEMA,
    )


def _summary(layers: pl.DataFrame, fitted: list[bool]) -> dict[str, Any]:
    """What a person, and the plan of the next generation, reads first."""
    worst = layers.sort("drift", descending=True, maintain_order=True).row(0, named=True)
    return {
        "generation_id": worst["generation_id"],
        "largest_drift": worst["drift"],
        "largest_drift_layer": worst["module_name"],
        "largest_drift_measure": worst["measure"],
        "threshold": worst["threshold"],
        "exceeds": worst["drift"] > worst["threshold"],
        "shards": len(fitted),
        "new_shards": len(fitted) - sum(fitted),
        "gone_shards": worst["fitted_shards"] - sum(fitted),
    }
