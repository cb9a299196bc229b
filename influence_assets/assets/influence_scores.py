"""The asset `influence_scores`: one EK-FAC score for each query of a set and each sequence of a shard."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from influence_assets.assets.shared_pass import SHARD_PASS, Joined, PassContext
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
    from influence_assets.layouts.queries import StoredQueries

BYTES_PER_SCORE = 20
"""Bytes of a row of Parquet: the score and the sequence's id do not compress, the query's name does."""

BYTES_PER_PART = 8
"""Bytes of a row for a document's part: the ids repeat for every query."""

ROWS_SHOWN = 10


def _settings(study: Study) -> Mapping[str, Any]:
    return {"dtype": study.model.dtype, **method_settings(study)}


def _compute(work: Work) -> None:
    from influence_assets.capture.scores import ScoreTotals, score_all
    from influence_assets.layouts import factors
    from influence_assets.layouts.model import runner as load_runner
    from influence_assets.layouts.queries import StoredQueries
    from influence_assets.layouts.sequences import parts_of, shard_sequences, shared_sequences

    sequences = shard_sequences(work.open("token_sequences"))
    shared = shared_sequences(work.open("token_sequences"))
    runner = load_runner(work.workspace, work.open("language_model"), work.progress, len(sequences))
    curvature = factors.curvature_on(runner, work.open("eigenbases"), work.open("curvature"))
    queries = StoredQueries(work.open("query_gradients"), runner, curvature)
    bases = factors.bases_of(curvature)
    by_query, parts_by_query = [], []
    for rows in queries.chunks():
        totals = ScoreTotals({}, len(sequences), queries.N, runner.device, parts_of(shared))
        for method in methods_of(work.study):
            totals.include(method.name, queries.layers(rows, method.name), split=method.name == MAIN)
        score_all(runner, sequences, totals, bases)
        work.draft.summarise(rotated=totals.contractions())
        by_query.append(totals.totals())
        parts_by_query.append(totals.part_totals(MAIN))
    scores = {method: np.concatenate([chunk[method] for chunk in by_query]) for method in by_query[0]}
    _record(work, queries, sequences.keys, scores, shared, np.concatenate(parts_by_query))


def _record(
    work: Work,
    queries: "StoredQueries",
    keys: np.ndarray,
    scores: Mapping[str, np.ndarray],
    shared: pl.DataFrame,
    parts: np.ndarray,
) -> None:
    """Write the scores of each method, [query, sequence], and the main method's of parts, [query, row of shared]."""
    main = _rows(scores[MAIN], queries, keys)
    main = main.rename({"score": "influence_nats"}).sort("query_id", "influence_nats", descending=[False, True])
    work.draft.table("influence_scores", main)
    of_documents = _pairs(parts, queries, shared.select("sequence_id", "document_id"))
    work.draft.table("part_scores", of_documents.rename({"score": "influence_nats"}))
    baselines = [
        _rows(values, queries, keys).with_columns(method=pl.lit(method))
        for method, values in scores.items()
        if method != MAIN
    ]
    if baselines:
        work.draft.table("baseline_scores", pl.concat(baselines))
    influences = main["influence_nats"]
    work.draft.summarise(
        scores=main.height,
        queries=len(queries.query_ids),
        sequences=len(keys),
        generation_id=queries.generation_id,
        largest_nats=influences.max(),
        smallest_nats=influences.min(),
        positive_share=round(int((influences > 0).sum()) / max(1, len(influences)), 4),
    )


def _rows(scores: np.ndarray, queries: "StoredQueries", keys: np.ndarray) -> pl.DataFrame:
    """Return a frame with one row for each score in [query, sequence]."""
    return _pairs(scores, queries, pl.DataFrame({"sequence_id": keys}))


def _pairs(scores: np.ndarray, queries: "StoredQueries", scored: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with one row for each score in [query, row of `scored`]."""
    pairs = pl.DataFrame({"query_id": queries.query_ids}).join(scored, how="cross", maintain_order="left_right")
    generation = pl.lit(queries.generation_id, pl.Int32).alias("generation_id")
    return pairs.with_columns(generation, pl.Series("score", scores.reshape(-1)))


def _join(work: Work, context: PassContext) -> Joined:
    """Take part in a pass by one measurement for all query sets, so that gradients of parts are computed once."""
    from influence_assets.capture.scores import ScoreTotals
    from influence_assets.layouts.queries import StoredQueries
    from influence_assets.layouts.sequences import parts_of, shared_sequences

    sequences, runner = context.sequences, context.runner
    queries = StoredQueries(work.open("query_gradients"), runner, context.curvatures)
    if ASSET.name not in context.results:
        shared = shared_sequences(work.open("token_sequences"))
        context.results[ASSET.name] = (
            ScoreTotals({}, len(sequences), queries.N, runner.device, parts_of(shared)),
            shared,
        )
    totals, shared = context.results[ASSET.name]
    names = {method.name: f"{method.name} {work.partition.query_set}" for method in methods_of(work.study)}
    for method, name in names.items():
        totals.include(name, queries.layers(queries.all, method), split=method == MAIN)

    def record() -> None:
        work.draft.summarise(rotated=totals.contractions())
        of_all = totals.totals()
        scores = {method: of_all[name] for method, name in names.items()}
        _record(work, queries, sequences.keys, scores, shared, totals.part_totals(names[MAIN]))

    return Joined(totals, record)


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


def _memory(sizes: Any) -> int:
    held = sizes.factor_bytes + (1 + sizes.most_scored_queries) * sizes.gradient_bytes  # Λ, and P
    return int(sizes.pass_memory(held, shares_pass=True))


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
    measures=Measurement(
        shared_pass=SHARD_PASS,
        join=_join,
        operations=_operations,
        held=("query_gradients",),
        held_bytes=_held_bytes,
    ),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
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
