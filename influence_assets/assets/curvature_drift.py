"""The asset `curvature_drift`: how far the corpus has moved from the frozen generation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact

MEASURES = ("A", "S", "eigenvalues")
"""The statistics whose drift is measured, as the tables name them."""

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


def _compute(work: Work) -> None:
    """Merge the drift of all shards in the order of their names; reads one short vector of each."""
    from influence_assets.layouts.drift import merged_drift

    frozen = work.open("eigenbases")
    shards = work.open_all("drift_statistics")
    fitted = [bool(shard.manifest.summary["fitted"]) for shard in shards]
    drift = merged_drift(shards, work.open("corrected_eigenvalues"), frozen, work.progress)
    if drift is None:  # every document was withdrawn, so no shard is left to compare
        work.draft.table("layer_drift", pl.DataFrame(schema=LAYER_DRIFT_SCHEMA))
        work.draft.table("shard_drift", pl.DataFrame(schema=SHARD_DRIFT_SCHEMA))
        work.draft.summarise(generation_id=frozen.manifest.summary["generation_id"], exceeds=False, shards=0)
        return
    layers = _layer_rows(work, list(frozen.manifest.summary["shapes"]), drift.by_layer).with_columns(
        pl.lit(frozen.manifest.summary["generation_id"], pl.Int32).alias("generation_id"),
        pl.lit(len(shards), pl.Int64).alias("shards"),
        pl.lit(len(frozen.manifest.summary["fitted_shards"]), pl.Int64).alias("fitted_shards"),
    )
    work.draft.table("layer_drift", layers.select(LAYER_DRIFT_SCHEMA.names()).cast(LAYER_DRIFT_SCHEMA))
    work.draft.table("shard_drift", _shard_rows(shards, fitted, drift.by_shard))
    work.draft.summarise(**_summary(layers, fitted))


def _layer_rows(work: Work, modules: list[str], drifts: np.ndarray) -> pl.DataFrame:
    """Return a frame with one row for each layer and measure in [layer, measure]."""
    return pl.DataFrame(
        {
            "module_name": np.repeat(modules, len(MEASURES)),
            "measure": list(MEASURES) * len(modules),
            "drift": drifts.reshape(-1),
            "threshold": work.study.curvature.drift_threshold,
        }
    )


def _shard_rows(shards: Sequence[Artifact], fitted: list[bool], drifts: np.ndarray) -> pl.DataFrame:
    """Return a frame with one row for each shard and measure: the median over layers of [layer, measure, shard]."""
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
    """Return the summary for people and for the plan of the next generation."""
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


def drift_is_below_the_threshold(artifact: Artifact, _open: Opener) -> Finding:
    """Find the layer and measure with the largest drift."""
    worst = artifact.table("layer_drift").sort("drift", descending=True, maintain_order=True).head(1).collect()
    layer = worst.row(0, named=True)
    passed = layer["drift"] <= layer["threshold"]
    figures = {name: layer[name] for name in ("module_name", "measure", "drift", "threshold", "generation_id")}
    figures |= {"shards": layer["shards"], "fitted_shards": layer["fitted_shards"]}
    if not passed:
        figures["what_to_do"] = (
            "Scores are still right for the generation that they name, but it describes the corpus less well. Fit a "
            "new generation: materialise `eigenbases` with `new_generation`, or set `curvature.new_generation: "
            "automatic` in the study. If the scores' order matters less to you, raise `curvature.drift_threshold`."
        )
    return Finding(passed, figures)


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=None, amount=sizes.all_sequences())


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    if "largest_drift" not in figures:
        return {"in_short": "There is no shard to compare with the generation."}
    advice = "A new generation is due" if figures["exceeds"] else "The generation still describes the corpus"
    return {
        "in_short": f"{advice}: the largest drift is {figures['largest_drift']:.3g}, the threshold "
        f"{figures['threshold']:.3g}."
    }


ASSET = AssetDefinition(
    name="curvature_drift",
    group="curvature",
    description=(
        "How far the statistics of all current shards have moved from the frozen generation, layer by layer. Past the "
        "study's threshold a new generation is due."
    ),
    kinds=frozenset({"torch", "parquet"}),
    inputs=("drift_statistics", "corrected_eigenvalues", "eigenbases"),
    reads=("corpus",),
    code_version="2",
    settings=lambda study: {"drift_threshold": study.curvature.drift_threshold},
    compute=_compute,
    reports_drift=True,
    is_published=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
    checks=EachOf(
        Check(
            "drift_is_below_the_threshold",
            "No layer's statistics have moved further from the frozen generation than the study's threshold.",
            drift_is_below_the_threshold,
            blocking=False,
        )
    ),
)
