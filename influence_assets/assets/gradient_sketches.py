"""The asset `gradient_sketches`: a few bytes of each training gradient, from which new queries are answered."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from influence_assets.assets.shared_pass import PROBES, SHARD_PASS, Joined, PassContext
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact

if TYPE_CHECKING:
    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.runner import Runner
    from influence_assets.capture.sketches import WhitenedBatch
    from influence_assets.maths.ekfac import LayerCurvature


BYTES_A_COORDINATE = 1.2
"""What it takes to say which coordinate it is, compressed."""


def _compute(work: Work) -> None:
    from influence_assets.capture.sketches import sketches
    from influence_assets.layouts import factors
    from influence_assets.layouts.model import runner as load_runner
    from influence_assets.layouts.sequences import shard_sequences

    sequences = shard_sequences(work.open("token_sequences"))
    runner = load_runner(work.workspace, work.open("language_model"), work.progress, len(sequences))
    layers = factors.curvature_on(runner, work.open("eigenbases"), work.open("curvature"))
    recorder = _Recorder(work, runner, sequences, layers)
    for batch in sketches(runner, sequences, layers, recorder.coordinates, recorder.probes):
        recorder.add(batch)
    recorder.finish()


class _Recorder:
    """A recorder that encodes whitened gradients into the draft, and compares them with exact scores.

    Args:
        work: the work whose draft is filled.
        runner: runs the model.
        sequences: the shard's sequences; a few of them are the queries that sketches are compared by.
        layers: the generation's curvature.
    """

    def __init__(
        self, work: Work, runner: "Runner", sequences: "Sequences", layers: "dict[str, LayerCurvature]"
    ) -> None:
        import numpy as np

        from influence_assets.capture.gradients import query_gradients
        from influence_assets.capture.runner import Runner
        from influence_assets.capture.sketches import query_sketches
        from influence_assets.layouts.factors import bases_of
        from influence_assets.layouts.sketches import write_coordinates
        from influence_assets.maths.sketches import strongest_coordinates
        from influence_assets.methods.ekfac import precondition

        self._work = work
        self._sequences = len(sequences)
        self.coordinates = strongest_coordinates(layers, work.study.sketches.coordinates)
        write_coordinates(work.draft, self.coordinates, layers)
        # A sequence without a loss has no gradient to ask with.
        carrying = np.flatnonzero(sequences.counted_tokens() > 0)
        spread = np.unique(np.linspace(0, max(0, len(carrying) - 1), PROBES).astype(int))[: len(carrying)]
        self._probed = carrying[spread]
        quiet = Runner(runner.model, runner.modules, runner.batch_sequences)
        gradients = query_gradients(quiet, sequences.take(self._probed), bases_of(layers)).layers
        self._questions = query_sketches(gradients, layers, self.coordinates, 1)
        self.probes = precondition(gradients, layers)
        row_bytes = -(-self.coordinates.width // 8)
        self._signs = work.draft.mappable_array("signs", (len(sequences), row_bytes), "uint8")
        self._scales = [np.zeros(0, np.float32)]
        self._exact = [np.zeros((len(self._probed), 0))]
        self._estimated = [np.zeros((len(self._probed), 0), np.float32)]

    def add(self, batch: "WhitenedBatch") -> None:
        """Encode and write the next sequences."""
        from influence_assets.capture.sign_codes import encode, estimate

        codes = encode(batch.rows, batch.squared_norms)
        self._signs.append(codes.signs)
        self._scales.append(codes.scales)
        self._exact.append(batch.exact)
        self._estimated.append(estimate(self._questions, codes))

    def finish(self) -> None:
        """Write the scales, and summarise the sketches and how well they agree with exact scores."""
        import numpy as np

        from influence_assets.analysis.agreement import agreement

        self._work.draft.array("scales", np.concatenate(self._scales))
        exact = np.concatenate(self._exact, axis=1)
        # A sequence's score for itself is an outlier that would make the agreement look better than it is.
        exact[np.arange(len(self._probed)), self._probed] = np.nan
        agreed = agreement(exact, np.concatenate(self._estimated, axis=1))
        generation = self._work.open("curvature").manifest.summary
        self._work.draft.summarise(
            sequences=self._sequences,
            coordinates=self.coordinates.width,
            expected_energy=round(self.coordinates.energy, 4),
            generation_id=generation["generation_id"],
            training_sequences=generation["training_sequences"],
            agreement=None if agreed is None else agreed.rounded(),
        )


def _join(work: Work, context: PassContext) -> Joined:
    from influence_assets.capture.sketches import SketchRows

    layers = context.curvatures
    recorder = _Recorder(work, context.runner, context.sequences, layers)
    rows = SketchRows(context.runner, layers, recorder.coordinates, recorder.probes, recorder.add)
    return Joined(rows, recorder.finish)


def _cost(sizes: Any, partition: Partition) -> Cost:
    coordinates = min(sizes.study.sketches.coordinates, sizes.shape.gradient_numbers)
    return Cost(bytes=sizes.sequences(str(partition.shard)) * (coordinates / 8 + 4) + coordinates * BYTES_A_COORDINATE)


def _operations(sizes: Any, partition: Partition, names: frozenset[str]) -> float:
    shape, sequences = sizes.shape, sizes.sequences(str(partition.shard))
    probes = min(PROBES, sequences)
    own = probes * (shape.passes() + shape.rotated_gradients()) + sequences * shape.contractions(probes)
    # Of labels from the training data the corrected eigenvalues have rotated the same gradients.
    are_rotated = "corrected_eigenvalues" in names and sizes.study.curvature.fisher == "empirical"
    return float(own + (0 if are_rotated else sequences * shape.rotated_gradients()))


def _memory(sizes: Any) -> int:
    held = sizes.factor_bytes + (2 + PROBES) * sizes.gradient_bytes
    return int(sizes.pass_memory(held, shares_pass=True))


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
    measures=Measurement(shared_pass=SHARD_PASS, join=_join, operations=_operations),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    hidden=frozenset({"coordinates_hash"}),
)
