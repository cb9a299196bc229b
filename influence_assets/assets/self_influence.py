"""The asset `self_influence`: the influence on itself of each sequence of a shard, and of each document's part."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from influence_assets.assets.fitted_pass import curvature_form
from influence_assets.assets.shared_pass import SHARD_PASS, Joined, PassContext, run_pass, shared_memory
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    from influence_assets.capture.layer_vectors import Sized
    from influence_assets.capture.participant import Participant
    from influence_assets.maths.curvature_form import CurvatureForm
    from influence_assets.models.layers.rule import AttributedLayer

BYTES_PER_ROW = 24
"""Bytes of a row of Parquet: ids and values do not compress."""

ROWS_SHOWN = 10


def _compute(work: Work) -> None:
    context = PassContext([work])
    run_pass(context, [_SelfInfluence(work, context)])


class _SelfInfluence(Joined):
    """The self-influence of a shard's sequences, and of the documents of those that have several.

    Args:
        work: the work of the shard.
        context: the pass.
    """

    def __init__(self, work: Work, context: PassContext) -> None:
        from influence_assets.capture.self_influence import SelfInfluenceTotals
        from influence_assets.layouts.sequences import parts_of, shared_sequences

        self._work = work
        self._context = context
        self._generation: Mapping[str, Any] = work.open("curvature").manifest.summary
        self._shared = shared_sequences(work.open("token_sequences"))
        N, device = int(self._generation["training_sequences"]), context.runner.device
        self._totals = SelfInfluenceTotals(len(context.sequences), parts_of(self._shared), N, device)

    def bytes_of(self, layer: "AttributedLayer", itemsize: int) -> int:
        """Return the bytes that norms take."""
        return _layer_bytes(layer, itemsize, curvature_form(self._work.study))

    def begin(self) -> "Participant":
        """Hold the curvature of the context's layers."""
        self._totals.hold(self._context.curvatures)
        return self._totals

    def end(self) -> None:
        """Free the curvature."""
        self._totals.release()

    def record(self) -> None:
        """Write the self-influences."""
        generation = int(self._generation["generation_id"])
        of_sequences, of_parts = self._totals.sequences, self._totals.parts
        sequences = pl.DataFrame({"sequence_id": self._context.sequences.keys})
        self._work.draft.table("self_influence", _rows(sequences, of_sequences, generation))
        parts = self._shared.select("sequence_id", "document_id")
        self._work.draft.table("self_influence_parts", _rows(parts, of_parts, generation))
        self._work.draft.summarise(
            sequences=len(of_sequences),
            parts=len(of_parts),
            generation_id=generation,
            largest_nats=None if not len(of_sequences) else float(of_sequences.max()),
            median_nats=None if not len(of_sequences) else float(np.median(of_sequences)),
        )


def _rows(of: pl.DataFrame, nats: np.ndarray, generation: int) -> pl.DataFrame:
    return of.with_columns(
        generation_id=pl.lit(generation, pl.Int32), self_influence_nats=pl.Series(nats, dtype=pl.Float64)
    )


def none_is_negative(artifact: Artifact, open_input: Opener) -> Finding:
    """Check that every sequence has a finite self-influence that is not negative, as the curvature is positive."""
    (tokens,) = (key for key in artifact.manifest.inputs if key.asset == "token_sequences")
    expected = open_input(tokens).manifest.rows["sequences"]
    nats = pl.concat(
        artifact.table(name).select("self_influence_nats").collect()["self_influence_nats"]
        for name in ("self_influence", "self_influence_parts")
    )
    measured, good = artifact.manifest.rows["self_influence"], bool((nats.is_finite() & (nats >= 0)).all())
    figures = {"sequences": measured, "expected": expected, "finite_and_not_negative": good}
    return Finding(good and measured == expected, figures)


def _cost(sizes: Any, partition: Partition) -> Cost:
    sequences, parts = sizes.sequences(str(partition.shard)), sizes.parts(str(partition.shard))
    # A sequence with k documents has k rows of them, of which k - 1 are counted as parts; mostly k is 2.
    return Cost(bytes=(sequences + 2 * parts) * BYTES_PER_ROW)


def _operations(sizes: Any, partition: Partition, names: frozenset[str]) -> float:
    shape, form = sizes.shape, sizes.form
    sequences, parts = sizes.sequences(str(partition.shard)), sizes.parts(str(partition.shard))
    shared = min(sequences, parts)  # sequences with several documents, of which there are `parts` and one more for each
    if form.rank is not None:
        return float((sequences + shared) * shape.norms())
    # All tokens of a sequence belong to one of its parts; what is rotated is each part's gradient.
    of_parts = shared * shape.gradients() + (parts + shared) * (shape.rotated_gradients() - shape.gradients())
    rotates = sizes.study.curvature.fisher == "empirical" and "corrected_eigenvalues" in names
    is_rotated = "gradient_sketches" in names or rotates
    return float(of_parts + (0 if is_rotated else sequences * shape.rotated_gradients()))


def _layer_bytes(layer: "Sized", itemsize: int, form: "CurvatureForm") -> int:
    if form.rank is None:
        return 0
    # Another basis in the dtype of sums.
    return form.basis_numbers(layer.output_width, layer.input_width) * itemsize


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    highest = artifact.table("self_influence").sort("self_influence_nats", descending=True).head(ROWS_SHOWN)
    return {
        "in_short": f"{figures['sequences']:,} sequences; the highest self-influence is "
        f"{figures['largest_nats'] or 0:.3g} nats, the median {figures['median_nats'] or 0:.3g}.",
        "highest": Table(highest.select("sequence_id", "self_influence_nats").collect()),
    }


ASSET = AssetDefinition(
    name="self_influence",
    group="attribution",
    description=(
        "The influence of each sequence of the shard on itself, in nats: by how much its own log-likelihood would rise "
        "if it were added once more. A sequence of several documents has one for each of them, too. Long texts "
        "have more of it than short ones. On request, by `scores.self_influence`."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="shard",
    inputs=("token_sequences", "language_model", "eigenbases", "curvature"),
    code_version="1",
    settings=lambda study: {"dtype": study.model.dtype},
    compute=_compute,
    on_request=True,
    is_requested=lambda study: study.scores.self_influence,
    holds_text=True,
    is_published=True,
    is_of_members=True,
    measures=Measurement(
        shared_pass=SHARD_PASS,
        join=_SelfInfluence,
        operations=_operations,
        layer_bytes=lambda sizes, layer: _layer_bytes(layer, sizes.shape.sums_itemsize, sizes.form),
    ),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: shared_memory(sizes, "self_influence")),
    checks=EachOf(
        Check(
            "none_is_negative",
            "Every sequence has one finite self-influence, and none is negative, nor is that of a part.",
            none_is_negative,
        )
    ),
    shown=_shown,
)
