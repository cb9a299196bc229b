"""What assets share that score a shard's sequences by methods of the form −⟨P, ∇L⟩ / N, in the shared pass."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from influence_assets.assets.shared_pass import Joined, PassContext, run_pass
from influence_assets.engine.definition import Work
from influence_assets.engine.partitions import Partition
from influence_assets.methods.method import AttributionMethod

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

Scores = Mapping[str, np.ndarray]
"""For each method float64 [query, sequence] or [query, part]."""

Write = Callable[[Work, PassContext, Scores, Scores, pl.DataFrame], None]
"""Writes scores, given the work, the context, those of sequences and of parts, and the documents of the parts."""

_TOTALS = "scores"
"""What the assets of scores share in a pass: one measurement, and so the gradients of sequences and their parts."""


class PassScores(Joined):
    """The scores of some queries of a set by several methods; all query sets and assets share one measurement.

    Args:
        work: the work of the query set and shard.
        context: the pass.
        methods: the methods.
        write: writes the finished scores, if they are those of all queries.
        rows: the queries; None: all.
    """

    def __init__(
        self,
        work: Work,
        context: PassContext,
        methods: Sequence[AttributionMethod],
        write: Write,
        rows: slice | None = None,
    ) -> None:
        from influence_assets.capture.scores import ScoreTotals
        from influence_assets.layouts.sequences import parts_of, shared_sequences

        summary = work.open("query_gradients").manifest.summary
        self.work = work
        self.context = context
        self._write = write
        self._rows = rows or slice(0, int(summary["queries"]))
        self._queries: int = self._rows.stop - self._rows.start
        self._is_whole = rows is None
        if _TOTALS not in context.results:
            shared = shared_sequences(work.open("token_sequences"))
            N, device = int(summary["training_sequences"]), context.runner.device
            totals = ScoreTotals({}, len(context.sequences), N, device, parts_of(shared))
            context.results[_TOTALS] = totals, shared
        self._totals: ScoreTotals
        self.shared: pl.DataFrame
        self._totals, self.shared = context.results[_TOTALS]
        self._names = {method.name: f"{method.name} {work.partition.query_set}" for method in methods}
        for name in self._names.values():
            self._totals.include(name, self._queries, split=True)

    def bytes_of(self, _layer: "AttributedLayer", _itemsize: int) -> int:
        """Return the bytes beside those of P: none."""
        return 0

    def vectors(self) -> "list[Vectors]":
        """Return P of every method."""
        queries = self._stored(self.context.whole, {})
        return [queries.vectors(self._rows, method) for method in self._names]

    def begin(self) -> "Participant":
        """Load P of the context's layers."""
        queries = self._stored(self.context.runner, self.context.curvatures)
        for method, name in self._names.items():
            self._totals.hold(name, queries.layers(self._rows, method, self.context.held))
        return self._totals

    def _stored(self, runner: "Runner", curvature: "Mapping[str, Curvature]") -> "StoredQueries":
        from influence_assets.layouts.queries import StoredQueries

        in_full = self.work.open_all("method_vectors")
        return StoredQueries(
            self.work.open("query_gradients"), runner, curvature, self.work.study, in_full[0] if in_full else None,
            self.work.open("language_model").manifest.summary,
        )  # fmt: skip

    def end(self) -> None:
        """Free P."""
        self._totals.release()

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The scores of each method, float64 [query, sequence]."""
        of_all = self._totals.totals()
        return {method: of_all[name] for method, name in self._names.items()}

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The scores of parts by each method, float64 [query, part]."""
        return {method: self._totals.part_totals(name) for method, name in self._names.items()}

    def record(self) -> None:
        """Write the scores, if they are those of all queries."""
        self.work.draft.summarise(rotated=self._totals.contractions())
        if self._is_whole:
            self._write(self.work, self.context, self.scores, self.parts, self.shared)


def compute_alone(work: Work, methods: Sequence[AttributionMethod], write: Write) -> None:
    """Compute the scores of a query set and shard in passes of their own, as many as memory takes.

    Args:
        work: the work.
        methods: the methods.
        write: writes the scores.
    """
    from influence_assets.layouts.queries import chunks_of

    rows_of_chunks = list(chunks_of(work.open("query_gradients")))
    context = PassContext([work], turns=len(rows_of_chunks))
    chunks: list[PassScores] = []
    for rows in rows_of_chunks:
        context.results.clear()
        chunks.append(PassScores(work, context, methods, write, rows))
        run_pass(context, [chunks[-1]])
    scores = [(chunk.scores, chunk.parts) for chunk in chunks]
    names = [method.name for method in methods]
    of_sequences = {name: np.concatenate([of_chunk[name] for of_chunk, _ in scores]) for name in names}
    of_parts = {name: np.concatenate([of_chunk[name] for _, of_chunk in scores]) for name in names}
    write(work, context, of_sequences, of_parts, chunks[0].shared)


def rows_of_scores(scores: np.ndarray, query_ids: list[str], generation_id: int, scored: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with one row for each score in [query, row of `scored`]."""
    pairs = pl.DataFrame({"query_id": query_ids}, schema={"query_id": pl.String}).join(
        scored, how="cross", maintain_order="left_right"
    )
    generation = pl.lit(generation_id, pl.Int32).alias("generation_id")
    return pairs.with_columns(generation, pl.Series("score", scores.reshape(-1)))


def scored_bytes(sizes: Any, partition: Partition, methods: int) -> int:
    """Return the bytes of the scores of so many methods for a query set and shard."""
    shard, queries = str(partition.shard), sizes.queries(str(partition.query_set))
    # A sequence with k documents has k rows of them, of which k - 1 are counted as parts; mostly k is 2.
    each = sizes.sequences(shard) * BYTES_PER_SCORE + 2 * sizes.parts(shard) * BYTES_PER_PART
    return int(methods * queries * each)


def scoring_operations(sizes: Any, partition: Partition, names: frozenset[str], methods: int, *, first: bool) -> float:
    """Count what scores take beside the pass itself.

    Args:
        sizes: the study's sizes, a `study_sizes.StudySizes`.
        partition: the query set and shard.
        names: all assets that take part in the pass.
        methods: the number of methods.
        first: whether the gradients of parts and sequences are counted here, unless sketches have those of sequences.
    """
    shape, shard = sizes.shape, str(partition.shard)
    parts, sequences = sizes.parts(shard), sizes.sequences(shard)
    queries = methods * sizes.queries(str(partition.query_set))
    if "gradient_sketches" in names:  # the sequences' gradients are there, and rotated
        of_sequences, gradients = sequences * shape.contractions(queries), shape.rotated_gradients()
    else:
        of_sequences, gradients = shape.scores(queries, sequences), shape.gradients()
        if not first:
            of_sequences = sequences * shape.contractions(queries)
    # A part that is not the longest has at most half of a sequence's tokens.
    of_parts = parts * ((gradients / 2 if first else 0) + shape.contractions(queries))
    return float(of_sequences + of_parts)


def vectors_of(sizes: Any, methods: Sequence[AttributionMethod]) -> "list[Vectors]":
    """Return P of every method for the queries of the largest set."""
    from influence_assets.capture.layer_vectors import Vectors
    from influence_assets.layouts.outer_products import fitting_rank

    queries, tokens = sizes.most_queries, sizes.query_shape.tokens - 1
    shapes = [(layer.d_out, layer.d_in) for layer in sizes.shape.layers]
    rank = sizes.study.queries.rank or fitting_rank([tokens] * len(shapes), shapes, sizes.shape.sums_itemsize)
    stored = tokens if rank is None else min(tokens, rank)
    return [Vectors(queries, stored if method.layer_by_layer else math.inf) for method in methods]
