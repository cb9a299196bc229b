"""The asset `influence_scores`: one EK-FAC score for each query of a set and each sequence of a shard."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from influence_assets.assets.shared_pass import SHARD_PASS, Joined, PassContext, run_pass, shared_memory
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.methods.registry import MAIN, method_settings, methods_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.capture.layer_vectors import Vectors
    from influence_assets.capture.participant import Participant
    from influence_assets.capture.runner import Runner
    from influence_assets.layouts.queries import StoredQueries
    from influence_assets.maths.curvature import Curvature
    from influence_assets.models.layers.rule import AttributedLayer

BYTES_PER_SCORE = 20
"""Bytes of a row of Parquet: the score and the sequence's id do not compress, the query's name does."""

BYTES_PER_PART = 8
"""Bytes of a row for a document's part: the ids repeat for every query."""

ROWS_SHOWN = 10


def _settings(study: Study) -> Mapping[str, Any]:
    return {"dtype": study.model.dtype, **method_settings(study)}


def _compute(work: Work) -> None:
    from influence_assets.layouts.queries import chunks_of

    rows_of_chunks = list(chunks_of(work.open("query_gradients")))
    context = PassContext([work], turns=len(rows_of_chunks))
    chunks: list[_Scores] = []
    for rows in rows_of_chunks:
        context.results.clear()
        chunks.append(_Scores(work, context, rows))
        run_pass(context, [chunks[-1]])
    scores = {method: np.concatenate([chunk.scores[method] for chunk in chunks]) for method in chunks[0].scores}
    _record(work, context, scores, np.concatenate([chunk.parts for chunk in chunks]), chunks[0].shared)


class _Scores(Joined):
    """The scores of some queries of a set; all query sets share one measurement, and so the gradients of parts.

    Args:
        work: the work of the query set and shard.
        context: the pass.
        rows: the queries; None: all.
    """

    def __init__(self, work: Work, context: PassContext, rows: slice | None = None) -> None:
        from influence_assets.capture.scores import ScoreTotals
        from influence_assets.layouts.sequences import parts_of, shared_sequences

        summary = work.open("query_gradients").manifest.summary
        self._work = work
        self._context = context
        self._rows = rows or slice(0, int(summary["queries"]))
        self._queries: int = self._rows.stop - self._rows.start
        self._is_whole = rows is None
        if ASSET.name not in context.results:
            shared = shared_sequences(work.open("token_sequences"))
            N, device = int(summary["training_sequences"]), context.runner.device
            totals = ScoreTotals({}, len(context.sequences), N, device, parts_of(shared))
            context.results[ASSET.name] = totals, shared
        self._totals: ScoreTotals
        self.shared: pl.DataFrame
        self._totals, self.shared = context.results[ASSET.name]
        self._names = {method.name: f"{method.name} {work.partition.query_set}" for method in methods_of(work.study)}
        for method, name in self._names.items():
            self._totals.include(name, self._queries, split=method == MAIN)

    def bytes_of(self, _layer: "AttributedLayer", _itemsize: int) -> int:
        """Return the bytes beside those of P: none."""
        return 0

    def vectors(self) -> "list[Vectors]":
        """Return P of every method."""
        queries = self._stored(self._context.whole, {})
        return [queries.vectors(self._rows, method) for method in self._names]

    def begin(self) -> "Participant":
        """Load P of the context's layers."""
        queries = self._stored(self._context.runner, self._context.curvatures)
        for method, name in self._names.items():
            self._totals.hold(name, queries.layers(self._rows, method, self._context.held))
        return self._totals

    def _stored(self, runner: "Runner", curvature: "Mapping[str, Curvature]") -> "StoredQueries":
        from influence_assets.layouts.queries import StoredQueries

        return StoredQueries(self._work.open("query_gradients"), runner, curvature)

    def end(self) -> None:
        """Free P."""
        self._totals.release()

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The scores of each method, float64 [query, sequence]."""
        of_all = self._totals.totals()
        return {method: of_all[name] for method, name in self._names.items()}

    @property
    def parts(self) -> np.ndarray:
        """The main method's scores of parts, float64 [query, part]."""
        return self._totals.part_totals(self._names[MAIN])

    def record(self) -> None:
        """Write the scores, if they are those of all queries."""
        self._work.draft.summarise(rotated=self._totals.contractions())
        if self._is_whole:
            _record(self._work, self._context, self.scores, self.parts, self.shared)


def _record(
    work: Work, context: PassContext, scores: Mapping[str, np.ndarray], parts: np.ndarray, shared: pl.DataFrame
) -> None:
    """Write the scores of each method, [query, sequence], and the main method's of parts, [query, part]."""
    gradients = work.open("query_gradients")
    query_ids = gradients.table("queries").select("query_id").collect()["query_id"].to_list()
    generation = int(gradients.manifest.summary["generation_id"])
    keys = context.sequences.keys
    main = _rows(scores[MAIN], query_ids, generation, keys)
    main = main.rename({"score": "influence_nats"}).sort("query_id", "influence_nats", descending=[False, True])
    work.draft.table("influence_scores", main)
    of_documents = _pairs(parts, query_ids, generation, shared.select("sequence_id", "document_id"))
    work.draft.table("part_scores", of_documents.rename({"score": "influence_nats"}))
    baselines = [
        _rows(values, query_ids, generation, keys).with_columns(method=pl.lit(method))
        for method, values in scores.items()
        if method != MAIN
    ]
    if baselines:
        work.draft.table("baseline_scores", pl.concat(baselines))
    influences = main["influence_nats"]
    work.draft.summarise(
        scores=main.height,
        queries=len(query_ids),
        sequences=len(keys),
        generation_id=generation,
        largest_nats=influences.max(),
        smallest_nats=influences.min(),
        positive_share=round(int((influences > 0).sum()) / max(1, len(influences)), 4),
    )


def _rows(scores: np.ndarray, query_ids: list[str], generation_id: int, keys: np.ndarray) -> pl.DataFrame:
    """Return a frame with one row for each score in [query, sequence]."""
    return _pairs(scores, query_ids, generation_id, pl.DataFrame({"sequence_id": keys}))


def _pairs(scores: np.ndarray, query_ids: list[str], generation_id: int, scored: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with one row for each score in [query, row of `scored`]."""
    pairs = pl.DataFrame({"query_id": query_ids}, schema={"query_id": pl.String}).join(
        scored, how="cross", maintain_order="left_right"
    )
    generation = pl.lit(generation_id, pl.Int32).alias("generation_id")
    return pairs.with_columns(generation, pl.Series("score", scores.reshape(-1)))


def every_sequence_is_scored(artifact: Artifact, open_input: Opener) -> Finding:
    """Count the pairs of query and sequence that have a score, and check that all scores are finite."""
    inputs = {key.asset: key for key in artifact.manifest.inputs}
    sequences = open_input(inputs["token_sequences"]).manifest.rows["sequences"]
    queries = open_input(inputs["query_gradients"]).manifest.rows["queries"]
    counted = (
        artifact.table("influence_scores")
        .select(
            pairs=pl.struct("query_id", "sequence_id").n_unique(), finite=pl.col("influence_nats").is_finite().all()
        )
        .collect()
    )
    pairs, finite = int(counted["pairs"][0]), bool(counted["finite"][0])
    figures = {"scores": pairs, "expected": queries * sequences, "finite": finite}
    return Finding(finite and pairs == queries * sequences, figures)


def _cost(sizes: Any, partition: Partition) -> Cost:
    sequences, parts = sizes.sequences(str(partition.shard)), sizes.parts(str(partition.shard))
    of_methods, queries = sizes.scored_queries(partition.query_set), sizes.queries(str(partition.query_set))
    # A sequence with k documents has k rows of them, of which k - 1 are counted as parts; mostly k is 2.
    return Cost(bytes=sequences * of_methods * BYTES_PER_SCORE + 2 * parts * queries * BYTES_PER_PART)


def _operations(sizes: Any, partition: Partition, names: frozenset[str]) -> float:
    shape, parts = sizes.shape, sizes.parts(str(partition.shard))
    queries, sequences = sizes.scored_queries(partition.query_set), sizes.sequences(str(partition.shard))
    if "gradient_sketches" in names:  # the sequences' gradients are there, and rotated
        of_sequences, gradients = sequences * shape.contractions(queries), shape.rotated_gradients()
    else:
        of_sequences, gradients = shape.scores(queries, sequences), shape.gradients()
    # A part that is not the longest has at most half of a sequence's tokens.
    of_parts = parts * (gradients / 2 + shape.contractions(sizes.queries(str(partition.query_set))))
    return float(of_sequences + of_parts)


def _held_bytes(study: Study, manifest: Manifest) -> int:
    """Return the bytes of P of all methods for the queries of a set."""
    return len(methods_of(study)) * int(manifest.summary["gradient_bytes"])


def _vectors(sizes: Any) -> "list[Vectors]":
    """Return P of every method for the queries of the largest set."""
    from influence_assets.capture.layer_vectors import Vectors
    from influence_assets.layouts.outer_products import fitting_rank

    queries, tokens = sizes.most_scored_queries // sizes.methods, sizes.query_shape.tokens - 1
    shapes = [(layer.d_out, layer.d_in) for layer in sizes.shape.layers]
    rank = sizes.study.queries.rank or fitting_rank([tokens] * len(shapes), shapes, sizes.shape.sums_itemsize)
    stored = tokens if rank is None else min(tokens, rank)
    return [Vectors(queries, stored if method.layer_by_layer else math.inf) for method in methods_of(sizes.study)]


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    strongest = artifact.table("influence_scores").sort("influence_nats", descending=True).head(ROWS_SHOWN)
    return {
        "in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences; the highest "
        f"score is {figures['largest_nats'] or 0:.3g} nats per added copy.",
        "strongest": Table(strongest.select("query_id", "sequence_id", "influence_nats").collect()),
    }


ASSET = AssetDefinition(
    name="influence_scores",
    group="attribution",
    description=(
        "One EK-FAC score for each query of the set and each sequence of the shard, in nats per added copy. Positive: "
        "adding the sequence once more to the training set would raise the completion's log-probability. A sequence of "
        "several documents has one score for each of them, too."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="pair",
    inputs=("token_sequences", "language_model", "eigenbases", "curvature", "query_gradients"),
    code_version="4",
    settings=_settings,
    compute=_compute,
    holds_text=True,
    is_published=True,
    is_of_members=True,
    measures=Measurement(
        shared_pass=SHARD_PASS,
        join=_Scores,
        operations=_operations,
        held=("query_gradients",),
        held_bytes=_held_bytes,
        vectors=_vectors,
    ),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: shared_memory(sizes, "influence_scores")),
    checks=EachOf(
        Check(
            "every_sequence_is_scored",
            "One finite score for each query of the set and each sequence of the shard.",
            every_sequence_is_scored,
        )
    ),
    shown=_shown,
    hidden=frozenset({"rotated"}),
)
