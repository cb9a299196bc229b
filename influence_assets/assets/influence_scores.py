"""The asset `influence_scores`: one EK-FAC score for each query of a set and each sequence of a shard."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from influence_assets.assets.pass_scores import (
    PassScores,
    compute_alone,
    rows_of_scores,
    scored_bytes,
    scoring_operations,
    vectors_of,
)
from influence_assets.assets.shared_pass import SHARD_PASS, PassContext, shared_memory
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.methods.registry import MAIN, main_settings, methods_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.capture.layer_vectors import Vectors

ROWS_SHOWN = 10


def _settings(study: Study) -> Mapping[str, Any]:
    return {"dtype": study.model.dtype, **main_settings(study)}


def _compute(work: Work) -> None:
    compute_alone(work, methods_of(work.study)[:1], _record)


def _join(work: Work, context: PassContext) -> PassScores:
    return PassScores(work, context, methods_of(work.study)[:1], _record)


def _record(
    work: Work,
    context: PassContext,
    scores: Mapping[str, np.ndarray],
    parts: Mapping[str, np.ndarray],
    shared: pl.DataFrame,
) -> None:
    """Write the scores, [query, sequence], and those of parts, [query, part]."""
    gradients = work.open("query_gradients")
    query_ids = gradients.table("queries").select("query_id").collect()["query_id"].to_list()
    generation = int(gradients.manifest.summary["generation_id"])
    keys = context.sequences.keys
    main = rows_of_scores(scores[MAIN], query_ids, generation, pl.DataFrame({"sequence_id": keys}))
    main = main.rename({"score": "influence_nats"}).sort("query_id", "influence_nats", descending=[False, True])
    work.draft.table("influence_scores", main)
    of_documents = rows_of_scores(parts[MAIN], query_ids, generation, shared.select("sequence_id", "document_id"))
    work.draft.table("part_scores", of_documents.rename({"score": "influence_nats"}))
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
    return Cost(bytes=scored_bytes(sizes, partition, 1))


def _operations(sizes: Any, partition: Partition, names: frozenset[str]) -> float:
    return scoring_operations(sizes, partition, names, 1, first=True)


def _held_bytes(_study: Study, manifest: Manifest) -> int:
    """Return the bytes of P for the queries of a set."""
    return int(manifest.summary["gradient_bytes"])


def _vectors(sizes: Any) -> "list[Vectors]":
    return vectors_of(sizes, methods_of(sizes.study)[:1])


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
        join=_join,
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
