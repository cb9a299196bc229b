"""The asset `covariances`: A and S of every layer, as totals over a shard."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from influence_assets.assets.shared_pass import SHARD_PASS, Joined, PassContext
from influence_assets.assets.study_sizes import fitted_settings
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.covariance import Covariances
    from influence_assets.capture.runner import Runner

TOLERANCE = 1e-4
"""The relative rounding error that is allowed of sums in float32."""


def _compute(work: Work) -> None:
    from influence_assets.capture.covariance import covariances
    from influence_assets.layouts import model
    from influence_assets.layouts.sequences import shard_sequences

    curvature = work.study.curvature
    sequences = shard_sequences(work.open("token_sequences"))
    fitted = model.fit_sequences(sequences, curvature)
    runner = model.runner(work.workspace, work.open("language_model"), work.progress, len(fitted))
    totals = covariances(runner, fitted, model.label_sampler(curvature), blocks=curvature.blocks)
    _record(work, runner, sequences, len(fitted), totals)


def _record(
    work: Work, runner: "Runner", sequences: "Sequences", fitted: int, totals: "Mapping[str, Covariances]"
) -> None:
    from influence_assets.layouts.factors import write_covariances

    write_covariances(work.draft, totals)
    work.draft.summarise(
        fitted_sequences=fitted,
        training_sequences=len(sequences.with_loss()),
        training_tokens=int(sequences.lengths.sum()),
        attributed_parameters=sum(layer.parameters for layer in runner.modules),
        total_parameters=int(work.open("language_model").manifest.summary["parameters"]),
        shapes={layer.name: [layer.output_width, layer.input_width] for layer in runner.modules},
    )


def _join(work: Work, context: PassContext) -> Joined:
    from influence_assets.capture.covariance import CovarianceTotals

    measured = CovarianceTotals(work.study.curvature.blocks)

    def record() -> None:
        totals = measured.totals(context.runner)
        context.results["covariances"] = totals  # for assets that read them and are computed by the same pass
        fitted = len(context.sequences.with_loss())
        _record(work, context.runner, context.sequences, fitted, totals)

    return Joined(measured, record)


def factors_are_finite_and_symmetric(artifact: Artifact, _open: Opener) -> Finding:
    """Measure asymmetry, and by how much entries exceed what the diagonal allows.

    |a_ij| ≤ √(a_ii a_jj) holds for every positive semi-definite matrix. The eigenvalues themselves are checked once per
    generation, when they are computed anyway.
    """
    worst = {"asymmetry": 0.0, "excess_over_the_diagonal": 0.0}
    finite = True
    for name in artifact.array_names():
        M = artifact.array(name).astype(np.float64)
        if not np.isfinite(M).all():
            finite = False
            continue
        size = np.abs(M).max() or 1.0
        bound = np.sqrt(np.outer(*[np.maximum(M.diagonal(), 0)] * 2))
        worst["asymmetry"] = max(worst["asymmetry"], float(np.abs(M - M.T).max() / size))
        excess = float((np.abs(M) - bound).max() / size)
        worst["excess_over_the_diagonal"] = max(worst["excess_over_the_diagonal"], excess)
    return Finding(finite and max(worst.values()) < TOLERANCE, worst | {"finite": finite})


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=sizes.factor_bytes)


def _operations(sizes: Any, partition: Partition, _names: frozenset[str]) -> float:
    return float(sizes.fitted_sequences(str(partition.shard)) * sizes.shape.covariances())


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    fitted, sequences = figures["fitted_sequences"], figures["training_sequences"]
    return {"in_short": f"Measured on {fitted:,} of {sequences:,} sequences, in {len(figures['shapes']):,} layers."}


ASSET = AssetDefinition(
    name="covariances",
    group="curvature",
    description=(
        "Totals of a·aᵀ and Ds·Dsᵀ of every attributed layer over the shard's tokens, with sampled labels by default. "
        "They add up over shards; positions without a loss are not counted."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="shard",
    inputs=("token_sequences", "language_model"),
    code_version="1",
    settings=fitted_settings,
    compute=_compute,
    holds_text=True,
    measures=Measurement(
        shared_pass=SHARD_PASS,
        join=_join,
        operations=_operations,
        fits=True,
        joins=lambda study: study.curvature.fit_sequences is None,  # or fewer sequences are fitted than are scored
    ),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: sizes.pass_memory(sizes.factor_bytes, shares_pass=True)),
    shown=_shown,
    checks=EachOf(
        Check(
            "factors_are_finite_and_symmetric",
            "Every A and S is finite, symmetric, and no larger off its diagonal than the diagonal allows.",
            factors_are_finite_and_symmetric,
        )
    ),
    hidden=frozenset({"layers", "shapes"}),
)
