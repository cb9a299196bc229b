"""The asset `corrected_eigenvalues`: Λ of every layer in the frozen basis, as totals over a shard."""

from collections.abc import Callable, Mapping
from functools import partial
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
    from torch import Tensor

    from influence_assets.capture.covariance import Covariances
    from influence_assets.maths.ekfac import Eigenbasis
    from influence_assets.maths.moments import SecondMoment


def _compute(work: Work) -> None:
    from influence_assets.capture.correction import eigenvalue_corrections
    from influence_assets.layouts import factors, model
    from influence_assets.layouts.sequences import shard_sequences

    sequences = shard_sequences(work.open("token_sequences"))
    fitted = model.fit_sequences(sequences, work.study.curvature)
    runner = model.runner(work.workspace, work.open("language_model"), work.progress, len(fitted))
    bases = factors.bases_on(runner, work.open("eigenbases"))
    totals = eigenvalue_corrections(runner, fitted, bases, model.label_sampler(work.study.curvature))
    _record(work, bases, totals, partial(factors.read_covariances, work.open("covariances")))


def _record(
    work: Work,
    bases: "Mapping[str, Eigenbasis]",
    totals: "Mapping[str, SecondMoment[Tensor]]",
    covariances_of: "Callable[[str], Covariances]",
) -> None:
    """Write the totals, and the shard's drift as one short array, which is cheap to add up over shards."""
    from influence_assets.layouts.drift import drift_statistics, packed
    from influence_assets.layouts.factors import write_corrections

    write_corrections(work.draft, totals)
    statistics = {
        layer: drift_statistics(covariances_of(layer), basis, totals[layer]) for layer, basis in bases.items()
    }
    work.draft.array("drift", packed(statistics))


def _join(work: Work, context: PassContext) -> Joined:
    from influence_assets.capture.correction import CorrectionTotals
    from influence_assets.layouts.factors import read_covariances

    corrections = CorrectionTotals()

    def record() -> None:
        measured: Mapping[str, Covariances] | None = context.results.get("covariances")
        covariances_of: Callable[[str], Covariances] = (
            partial(read_covariances, work.open("covariances")) if measured is None else measured.__getitem__
        )
        _record(work, context.bases, corrections.totals(context.runner), covariances_of)

    return Joined(corrections, record)


def eigenvalues_are_finite_and_not_negative(artifact: Artifact, _open: Opener) -> Finding:
    """Find the smallest entry of Λ, which must not be negative because it is a mean of squares."""
    smallest = min(
        float(np.nan_to_num(artifact.array(name), nan=-np.inf, posinf=-np.inf).min())
        for name in artifact.array_names()
        if name.endswith(".corrected_eigenvalues")
    )
    return Finding(smallest >= 0, {"smallest": smallest})


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return Cost(bytes=sizes.gradient_bytes)


def _operations(sizes: Any, partition: Partition, _names: frozenset[str]) -> float:
    rotated = sizes.fitted_sequences(str(partition.shard)) * sizes.shape.rotated_gradients()
    return float(rotated + sum(layer.drift() for layer in sizes.shape.layers))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    return {"in_short": f"Measured on {artifact.manifest.summary['counted_sequences']:,} sequences."}


ASSET = AssetDefinition(
    name="corrected_eigenvalues",
    group="curvature",
    description=(
        "Totals of the squared, rotated sequence gradients Λ over the shard, in the generation's frozen eigenbasis, "
        "and how far the shard's own covariances are from being diagonal in it."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="shard",
    inputs=("token_sequences", "language_model", "covariances", "eigenbases"),
    code_version="2",
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
    cost=CostModel(
        partition=_cost,
        memory=lambda sizes: sizes.pass_memory(2 * sizes.factor_bytes + sizes.gradient_bytes, shares_pass=True),
    ),
    shown=_shown,
    checks=EachOf(
        Check(
            "eigenvalues_are_finite_and_not_negative",
            "Every Λ is a total of squares.",
            eigenvalues_are_finite_and_not_negative,
        )
    ),
    hidden=frozenset({"layers", "shapes"}),
)
