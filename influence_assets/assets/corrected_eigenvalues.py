"""The asset `corrected_eigenvalues`: Λ of every layer in a generation's basis, as totals over its shards."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from influence_assets.assets.fitted_pass import FittedPass, fitted_settings
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.generations import FittedStatistics
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft


def _compute(work: Work) -> None:
    import torch

    from influence_assets.capture.correction import CorrectionTotals, correction_pass
    from influence_assets.capture.shard_statistics import ShardStatistics
    from influence_assets.layouts.drift import DRIFT, DRIFT_SEQUENCES, shard_drift
    from influence_assets.layouts.factors import bases_on, read_corrections, write_corrections

    generation = work.open("eigenbases").manifest.summary
    fitted = FittedPass(work, generation["fitted_share"])
    layers, bases = fitted.runner.modules, bases_on(fitted.runner, work.open("eigenbases"))
    bases = fitted.runner.placed(bases)
    resumed = fitted.resumed
    totals = CorrectionTotals(torch.float64) if resumed is None else read_corrections(resumed)
    drift = [] if resumed is None else list(resumed.array(DRIFT))
    sequences_of_shards = [] if resumed is None else resumed.array(DRIFT_SEQUENCES).tolist()

    def write(draft: Draft, dtype: torch.dtype) -> None:
        write_corrections(draft, layers, totals, dtype)
        draft.array(DRIFT, np.stack(drift))
        draft.array(DRIFT_SEQUENCES, np.array(sequences_of_shards, np.int64))

    of_shard = ShardStatistics(work.study.curvature.blocks)
    for sequences in fitted.shards(lambda draft: write(draft, torch.float64)):
        correction_pass(fitted.runner, sequences, bases, fitted.sampler, of_shard)
        drift.append(shard_drift(layers, of_shard, bases))
        sequences_of_shards.append(len(sequences))
        totals.absorb(of_shard.corrections)
        of_shard.clear()
    write(work.draft, fitted.dtype)
    work.draft.summarise(**fitted.figures(), generation_id=generation["generation_id"])


def eigenvalues_are_finite_and_not_negative(artifact: Artifact, _open: Opener) -> Finding:
    """Find the smallest entry of Λ, which must not be negative because it is a mean of squares."""
    smallest = min(
        float(np.nan_to_num(artifact.array(name), nan=-np.inf, posinf=-np.inf).min())
        for name in artifact.array_names()
        if name.endswith(".corrected_eigenvalues")
    )
    return Finding(smallest >= 0, {"smallest": smallest})


def _cost(sizes: Any, _partition: Partition) -> Cost:
    shape = sizes.shape
    of_sequence = shape.passes() + shape.covariances() + shape.rotated_gradients()
    operations = sizes.all_fitted_sequences * of_sequence + sizes.shards * shape.drift()
    return Cost(operations, sizes.gradient_bytes + sizes.shards * sizes.drift_bytes)


def _memory(sizes: Any) -> int:
    of_shard = sizes.factor_totals_bytes * sizes.shape.sums_itemsize / 8 + sizes.gradient_bytes
    return int(sizes.pass_memory(sizes.factor_bytes + of_shard + 8 * sizes.shape.gradient_numbers))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    return {"in_short": f"Measured on {artifact.manifest.summary['fitted_sequences']:,} sequences."}


ASSET = AssetDefinition(
    name="corrected_eigenvalues",
    group="curvature",
    description=(
        "Totals of the squared, rotated sequence gradients Λ over the shards that the generation is fitted on, in its "
        "frozen eigenbasis, and how far each shard's own covariances are from being diagonal in it."
    ),
    kinds=frozenset({"torch", "zarr"}),
    inputs=("language_model", "eigenbases", "token_sequences"),
    code_version="3",
    settings=fitted_settings,
    compute=_compute,
    frozen=FittedStatistics(fitted_on="token_sequences"),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    checks=EachOf(
        Check(
            "eigenvalues_are_finite_and_not_negative",
            "Every Λ is a total of squares.",
            eigenvalues_are_finite_and_not_negative,
        )
    ),
    hidden=frozenset({"layers", "fitted_shards"}),
)
