"""The asset `drift_statistics`: how a shard's own curvature looks in the generation's basis, as one short vector."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from influence_assets.assets.fitted_pass import curvature_form, fitted_settings
from influence_assets.assets.shared_pass import SHARD_PASS, Joined, PassContext, run_pass, shared_memory
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.engine.versions import Versions
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    import numpy as np

    from influence_assets.capture.form import AnyStatistics
    from influence_assets.capture.layer_vectors import Sized
    from influence_assets.capture.participant import Participant
    from influence_assets.maths.curvature_form import CurvatureForm
    from influence_assets.models.layers.rule import AttributedLayer


def _compute(work: Work) -> None:
    from influence_assets.layouts import model
    from influence_assets.layouts.sequences import shard_sequences

    generation = work.open("eigenbases").manifest.summary
    (tokens,) = (key for key in work.inputs if key.asset == "token_sequences")
    if generation["fitted_shards"].get(work.partition.shard) == tokens.data_version:
        # The pass that the generation was fitted with has measured it.
        work.draft.summarise(fitted=True)
        return
    curvature = work.study.curvature
    every = shard_sequences(work.open("token_sequences"))
    sequences = model.fit_sequences(every, generation["fitted_share"], curvature.seed)
    context = PassContext([work], sequences)
    run_pass(context, [_Drift(work, context)])


def _joins(versions: Versions, partition: Partition) -> bool:
    """Return whether all sequences of the shard are to be measured, as the other assets of the pass want them."""
    generation = versions.generation
    if generation is None:
        return False
    manifest = versions.workspace.store.manifest(generation.key)
    if manifest is None or manifest.summary["fitted_share"] < 1:
        return False
    tokens = versions.key(versions.workspace.graph["token_sequences"], Partition(shard=partition.shard))
    return tokens is None or generation.fitted_shards.get(str(partition.shard)) != tokens.data_version


class _Drift(Joined):
    """The drift of a shard that came after the generation.

    Args:
        work: the work of the shard.
        context: the pass.
    """

    def __init__(self, work: Work, context: PassContext) -> None:
        self._work = work
        self._context = context
        self._measured: AnyStatistics | None = None
        self._vectors: list[np.ndarray] = []

    def bytes_of(self, layer: "AttributedLayer", itemsize: int) -> int:
        """Return the bytes of the layer's A, S and Λ."""
        return _layer_bytes(layer, itemsize, curvature_form(self._work.study))

    def begin(self) -> "Participant":
        """Begin the totals of the context's layers."""
        from influence_assets.capture.form import shard_statistics

        self._measured = shard_statistics(curvature_form(self._work.study), self._context.runner, self._context.bases)
        return self._measured

    def end(self) -> None:
        """Keep the layers' part of the vector."""
        from influence_assets.layouts.drift import shard_drift

        assert self._measured is not None  # noqa: S101  # it has begun
        self._vectors.append(shard_drift(self._context.runner.modules, self._measured, self._context.bases))
        self._measured = None

    def record(self) -> None:
        """Write the vector."""
        from influence_assets.layouts.drift import write_shard_drift

        write_shard_drift(self._work.draft, self._vectors, len(self._context.sequences.with_loss()))


def _cost(sizes: Any, partition: Partition) -> Cost:
    return Cost(bytes=0 if sizes.was_fitted(str(partition.shard)) else sizes.drift_bytes)


def _operations(sizes: Any, partition: Partition, _names: frozenset[str]) -> float:
    sequences = sizes.fitted_sequences(str(partition.shard))
    return float(sequences * sizes.shape.statistics() + sizes.shape.drift())


def _layer_bytes(layer: "Sized", itemsize: int, form: "CurvatureForm") -> int:
    shape, form = (layer.output_width, layer.input_width), form.of_layer(layer.outputs)
    basis = 0 if form.rank is None else form.basis_numbers(*shape)  # another one in the dtype of sums
    return itemsize * (form.statistics_numbers(*shape) + basis)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    if figures["fitted"]:
        return {"in_short": "The generation was fitted on this shard, which was measured then."}
    return {"in_short": f"Measured on {figures['measured_sequences']:,} sequences."}


ASSET = AssetDefinition(
    name="drift_statistics",
    group="curvature",
    description=(
        "How the shard's own A, S and Λ look in the generation's frozen basis, as one short vector. Those of all "
        "shards add up, and say how far the corpus has moved from the generation."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="shard",
    inputs=("token_sequences", "language_model", "eigenbases"),
    code_version="1",
    settings=fitted_settings,
    compute=_compute,
    holds_text=True,
    measures=Measurement(
        shared_pass=SHARD_PASS,
        join=_Drift,
        operations=_operations,
        fits=True,
        joins=_joins,
        layer_bytes=lambda sizes, layer: _layer_bytes(layer, sizes.shape.sums_itemsize, sizes.form),
        needs_pass=lambda sizes, partition: not sizes.was_fitted(str(partition.shard)),
    ),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: shared_memory(sizes, "drift_statistics")),
    shown=_shown,
)
