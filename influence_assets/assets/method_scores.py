"""The asset `method_scores`: the scores of a study's further methods, for each query of a set and sequence of a shard.

They are computed in the same pass as those of the main method, if both are outstanding. Methods that are no inner
product with training gradients have assets of their own.
"""

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
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Measurement, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.methods.registry import methods_in_full, other_methods_of, versions_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.capture.layer_vectors import Vectors


def _settings(study: Study) -> Mapping[str, Any]:
    return {"dtype": study.model.dtype, "methods": versions_of(study, other_methods_of(study))}


def _compute(work: Work) -> None:
    compute_alone(work, other_methods_of(work.study), _record)


def _join(work: Work, context: PassContext) -> PassScores:
    return PassScores(work, context, other_methods_of(work.study), _record)


def _record(
    work: Work,
    context: PassContext,
    scores: Mapping[str, np.ndarray],
    parts: Mapping[str, np.ndarray],
    shared: pl.DataFrame,
) -> None:
    """Write the scores of each method, [query, sequence], and those of parts, [query, part]."""
    gradients = work.open("query_gradients")
    query_ids = gradients.table("queries").select("query_id").collect()["query_id"].to_list()
    generation = int(gradients.manifest.summary["generation_id"])
    units = {method.name: method.unit for method in other_methods_of(work.study)}
    sequences = pl.DataFrame({"sequence_id": context.sequences.keys})
    documents = shared.select("sequence_id", "document_id")
    for table, of_methods, scored in (
        ("method_scores", scores, sequences),
        ("method_part_scores", parts, documents),
    ):
        rows = [
            rows_of_scores(values, query_ids, generation, scored).with_columns(
                method=pl.lit(name), unit=pl.lit(units[name], pl.String)
            )
            for name, values in of_methods.items()
        ]
        work.draft.table(table, pl.concat(rows))
    work.draft.summarise(
        scores=sum(values.size for values in scores.values()),
        queries=len(query_ids),
        sequences=sequences.height,
        methods=list(scores),
        generation_id=generation,
    )


def _cost(sizes: Any, partition: Partition) -> Cost:
    return Cost(bytes=scored_bytes(sizes, partition, len(other_methods_of(sizes.study))))


def _operations(sizes: Any, partition: Partition, names: frozenset[str]) -> float:
    methods = len(other_methods_of(sizes.study))
    return scoring_operations(sizes, partition, names, methods, first="influence_scores" not in names)


def _held_bytes(study: Study, manifest: Manifest) -> int:
    """Return the bytes of P of all methods for the queries of a set."""
    return len(other_methods_of(study)) * int(manifest.summary["gradient_bytes"])


def _vectors(sizes: Any) -> "list[Vectors]":
    return vectors_of(sizes, other_methods_of(sizes.study))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    ranges = artifact.table("method_scores").group_by("method", "unit").agg(
        lowest=pl.col("score").min(), median=pl.col("score").median(), highest=pl.col("score").max()
    )  # fmt: skip
    return {
        "in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences by "
        f"{', '.join(figures['methods'])}.",
        "ranges": Table(ranges.sort("method").collect()),
    }


ASSET = AssetDefinition(
    name="method_scores",
    group="attribution",
    description=(
        "The scores of the further methods that the study lists, for each query of the set and each sequence of the "
        "shard, and for each document of a sequence of several. Positive helps. Methods that are no inner product with "
        "training gradients have assets of their own."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="pair",
    inputs=("token_sequences", "language_model", "eigenbases", "curvature", "query_gradients", "method_vectors"),
    uses=lambda study, name: name != "method_vectors" or bool(methods_in_full(study)),
    code_version="1",
    settings=_settings,
    compute=_compute,
    on_request=True,
    is_requested=lambda study: bool(other_methods_of(study)),
    only_by_settings=True,
    holds_text=True,
    is_published=True,
    measures=Measurement(
        shared_pass=SHARD_PASS,
        join=_join,
        operations=_operations,
        held=("query_gradients",),
        held_bytes=_held_bytes,
        vectors=_vectors,
    ),
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: shared_memory(sizes, "method_scores")),
    shown=_shown,
    hidden=frozenset({"rotated"}),
)
