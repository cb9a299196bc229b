"""The asset `corrected_eigenvalues`: Λ of every layer in a generation's basis, as totals over its shards."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from influence_assets.assets.fitted_pass import FittedPass, curvature_form, fitted_settings
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.generations import FittedStatistics
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft

if TYPE_CHECKING:
    from influence_assets.capture.runner import Runner


def _compute(work: Work) -> None:
    import torch

    from influence_assets.capture.fitted_totals import FittedCorrections
    from influence_assets.layouts.drift import DRIFT, DRIFT_SEQUENCES, shard_drift
    from influence_assets.layouts.factors import bases_on, read_corrections, summarise_layers, write_corrections

    eigenbases = work.open("eigenbases")
    generation = eigenbases.manifest.summary
    fitted, form = FittedPass(work, generation["fitted_share"]), curvature_form(work.study)

    def begin(runner: "Runner", resumed: Artifact | None) -> FittedCorrections:
        bases = bases_on(runner, eigenbases)
        totals = FittedCorrections(runner, fitted.sampler, bases, form, shard_drift, save)
        if resumed is not None:
            totals.take_up(
                read_corrections(resumed, runner.modules), resumed.array(DRIFT), resumed.array(DRIFT_SEQUENCES)
            )
        return totals

    def save(draft: Draft, totals: FittedCorrections) -> None:
        write_corrections(draft, totals.layers, totals.corrections, torch.float64)
        draft.array(DRIFT, totals.drift)
        draft.array(DRIFT_SEQUENCES, np.array(totals.sequences, np.int64))

    drift, sequences = [], np.zeros(0, np.int64)
    for totals in fitted.totals(begin, lambda layer: FittedCorrections.bytes_of(layer, fitted.dtype, form)):
        write_corrections(work.draft, totals.layers, totals.corrections, fitted.dtype)
        drift.append(totals.drift)
        sequences = np.array(totals.sequences, np.int64)
        del totals  # before the next group is measured
    work.draft.array(DRIFT, drift[0] if len(drift) == 1 else np.concatenate(drift, axis=1))
    work.draft.array(DRIFT_SEQUENCES, sequences)
    summarise_layers(work.draft, fitted.runner.modules)
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
    of_sequence = len(_groups(sizes)) * shape.passes() + shape.statistics()
    operations = sizes.all_fitted_sequences * of_sequence + sizes.shards * shape.drift()
    return Cost(operations, sizes.eigenvalue_bytes + sizes.shards * sizes.drift_bytes)


def _memory(sizes: Any) -> int:
    return int(sizes.pass_memory(max(group.bytes for group in _groups(sizes))))


def _groups(sizes: Any) -> list[Any]:
    from influence_assets.capture.fitted_totals import FittedCorrections

    return list(sizes.fitted_groups(FittedCorrections.bytes_of))


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
    hidden=frozenset({"layers", "layers_without_S", "shapes", "fitted_shards"}),
)
