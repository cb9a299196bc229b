"""The asset `gradient_sketches`: a few bytes of each training gradient, from which new queries are answered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from influence_assets.assets.fitted_pass import curvature_form
from influence_assets.assets.shared_pass import PROBES, SHARD_PASS, Joined, PassContext, run_pass, shared_memory
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from influence_assets.capture.layer_vectors import Sized, Vectors
    from influence_assets.capture.participant import Participant
    from influence_assets.capture.sketches import WhitenedBatch
    from influence_assets.maths.curvature_form import CurvatureForm
    from influence_assets.maths.outer_products import GradientParts
    from influence_assets.models.layers.rule import AttributedLayer

BYTES_A_COORDINATE = 1.2
"""What it takes to say which coordinate it is, compressed."""


def _compute(work: Work) -> None:
    context = PassContext([work])
    run_pass(context, [_Sketches(work, context)])


class _Sketches(Joined):
    """The sketches of a shard, and how well they agree with exact scores.

    Args:
        work: the work whose draft is filled.
        context: the pass; a few of its sequences are the queries that sketches are compared by.
    """

    def __init__(self, work: Work, context: PassContext) -> None:
        from influence_assets.capture.sign_writer import SignWriter
        from influence_assets.layouts.factors import StoredCurvature
        from influence_assets.layouts.sketches import drawn_coordinates, write_coordinates
        from influence_assets.maths.notation import accumulation_dtype

        self._work = work
        self._context = context
        curvature, dtype = work.open("curvature"), accumulation_dtype(context.whole.dtype)
        stored = StoredCurvature(work.open("eigenbases"), curvature, dtype)
        self._coordinates = drawn_coordinates(stored, curvature, dtype, work.study.sketches.coordinates)
        form = curvature_form(work.study)
        sizes = {each.name: form.coordinates(each.output_width, each.input_width) for each in context.whole.modules}
        write_coordinates(work.draft, self._coordinates, sizes)
        # A sequence without a loss has no gradient to ask with.
        carrying = np.flatnonzero(context.sequences.counted_tokens() > 0)
        spread = np.unique(np.linspace(0, max(0, len(carrying) - 1), PROBES).astype(int))[: len(carrying)]
        self._probed = carrying[spread]
        self._signs = SignWriter(len(context.sequences), self._coordinates.width, work.draft.folder_path)
        self._questions: list[np.ndarray] = []
        self._exact: list[np.ndarray] = []

    def bytes_of(self, layer: "AttributedLayer", itemsize: int) -> int:
        """Return the bytes that whitening takes."""
        return _layer_bytes(layer, itemsize, curvature_form(self._work.study))

    def vectors(self) -> "list[Vectors]":
        """Return P of the probes."""
        return _vectors(int(self._context.sequences.lengths.max(initial=1)))

    def begin(self) -> "Participant":
        """Compute the probes' gradients of the context's layers."""
        from influence_assets.capture.layer_vectors import LayerVectors
        from influence_assets.capture.sketches import SketchRows, query_sketches
        from influence_assets.maths.sketches import Coordinates

        context, layers = self._context, self._context.curvatures
        kept = {name: self._coordinates.kept[name].to(layer.device) for name, layer in layers.items()}
        of_layers = Coordinates(kept, self._coordinates.energy)
        probes = self._probes()
        questions = [
            query_sketches({name: probes[name].sums()}, {name: layer}, of_layers, 1) for name, layer in layers.items()
        ]
        self._questions.append(np.concatenate(questions, axis=1))
        self._exact.append(np.zeros((len(self._probed), 0)))
        self._signs.begin(of_layers.width)

        def precondition(name: str, out: "Tensor | None") -> "Tensor":
            parts = probes.pop(name) if name in context.held else probes[name]
            return layers[name].precondition(parts.sums(out))

        P = LayerVectors(context.runner.modules, precondition, context.held)
        return SketchRows(context.runner, layers, of_layers, P, self._add)

    def _probes(self) -> "dict[str, GradientParts]":
        """Return what the probes' gradients of the context's layers are the sum of."""
        import torch

        from influence_assets.capture.gradients import gradients_in_parts
        from influence_assets.layouts.factors import bases_of
        from influence_assets.maths.notation import accumulation_dtype
        from influence_assets.maths.outer_products import GradientParts

        context, probed = self._context, self._context.sequences.take(self._probed)
        quiet = replace(context.runner, progress=lambda _count: None)
        parts = gradients_in_parts(quiet, probed, bases_of(context.curvatures))
        none = torch.zeros(0, dtype=accumulation_dtype(quiet.dtype), device=quiet.device)
        return {
            layer.name: GradientParts.of(parts[layer.name], none.new_zeros(0, layer.output_width, layer.input_width))
            for layer in quiet.modules
        }

    def _add(self, batch: "WhitenedBatch") -> None:
        self._signs.add(batch.rows, batch.squared_norms)
        self._exact[-1] = np.concatenate([self._exact[-1], batch.exact], axis=1)

    def record(self) -> None:
        """Write the sketches, and summarise how well they agree with exact scores."""
        from influence_assets.analysis.agreement import agreement
        from influence_assets.capture.sign_codes import estimate

        signs = self._work.draft.mappable_array("signs", self._signs.shape, "uint8")
        questions = np.concatenate(self._questions, axis=1)
        scales, estimated = [np.zeros(0, np.float32)], [np.zeros((len(questions), 0), np.float32)]
        for codes in self._signs.codes():
            signs.append(codes.signs)
            scales.append(codes.scales)
            estimated.append(estimate(questions, codes))
        self._work.draft.array("scales", np.concatenate(scales))
        exact = np.sum(self._exact, axis=0)
        # A sequence's score for itself is an outlier that would make the agreement look better than it is.
        exact[np.arange(len(self._probed)), self._probed] = np.nan
        agreed = agreement(exact, np.concatenate(estimated, axis=1))
        generation = self._work.open("curvature").manifest.summary
        self._work.draft.summarise(
            sequences=len(self._context.sequences),
            coordinates=self._coordinates.width,
            expected_energy=round(self._coordinates.energy, 4),
            generation_id=generation["generation_id"],
            training_sequences=generation["training_sequences"],
            agreement=None if agreed is None else agreed.rounded(),
        )


def _cost(sizes: Any, partition: Partition) -> Cost:
    of_layers = sum(sizes.form.coordinates(layer.d_out, layer.d_in) for layer in sizes.shape.layers)
    coordinates = min(sizes.study.sketches.coordinates, of_layers)
    return Cost(bytes=sizes.sequences(str(partition.shard)) * (coordinates / 8 + 4) + coordinates * BYTES_A_COORDINATE)


def _operations(sizes: Any, partition: Partition, names: frozenset[str]) -> float:
    shape, sequences = sizes.shape, sizes.sequences(str(partition.shard))
    probes = min(PROBES, sequences)
    own = probes * (shape.passes() + shape.rotated_gradients()) + sequences * shape.contractions(probes)
    # Of labels from the training data the corrected eigenvalues have rotated the same gradients.
    are_rotated = "corrected_eigenvalues" in names and sizes.study.curvature.fisher == "empirical"
    return float(own + (0 if are_rotated else sequences * shape.sketched_gradients()))


def _layer_bytes(layer: "Sized", itemsize: int, form: "CurvatureForm") -> int:
    if form.rank is None:
        return 0
    # Another basis in the dtype of sums.
    return form.basis_numbers(layer.output_width, layer.input_width) * itemsize


def _vectors(tokens: int) -> "list[Vectors]":
    from influence_assets.capture.layer_vectors import Vectors

    return [Vectors(PROBES, tokens)]


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    agreement = figures["agreement"]
    measured = "" if agreement is None else f" Rank correlation with exact scores: {agreement['spearman']:.2f}."
    return {"in_short": f"{figures['sequences']:,} sequences, {figures['coordinates']:,} signs each.{measured}"}


ASSET = AssetDefinition(
    name="gradient_sketches",
    group="attribution",
    description=(
        "The signs of each sequence's whitened gradient where most of its expected energy is, one bit each. Their "
        "inner product with a query's gradient estimates its score, so that `influence ask` needs no pass over the "
        "corpus. How well they agree with exact scores is measured with a few of the shard's own sequences taken as "
        "questions."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="shard",
    inputs=("token_sequences", "language_model", "eigenbases", "curvature"),
    code_version="1",
    settings=lambda study: {"dtype": study.model.dtype, "coordinates": study.sketches.coordinates},
    compute=_compute,
    holds_text=True,
    measures=Measurement(
        shared_pass=SHARD_PASS,
        join=_Sketches,
        operations=_operations,
        layer_bytes=lambda sizes, layer: _layer_bytes(layer, sizes.shape.sums_itemsize, sizes.form),
        vectors=lambda sizes: _vectors(sizes.shape.tokens),
    ),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: shared_memory(sizes, "gradient_sketches")),
    shown=_shown,
    hidden=frozenset({"coordinates_hash"}),
)
