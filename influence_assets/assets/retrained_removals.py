"""The asset `retrained_removals`: the model trained again without what a method scores highest for a query.

Beside them stand models without as many random sequences. How much further a completion's log-probability falls
without the former says how well a method finds what taught it, where the sums of half a corpus say little.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from influence_assets.assets.retraining import (
    BM25,
    RANDOM,
    OfTrainedShards,
    questions,
    recipe_of,
    train_part,
    training_cost,
    training_memory,
)
from influence_assets.corpus.subsets import part_of
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import training_tokens
from influence_assets.methods.registry import MAIN, methods_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTITION = re.compile(r"(.+)-(\d+)\.seed-(\d+)")


class Removal(NamedTuple):
    """What a partition lacks: a method's strongest sequences for the query with a number, or the draw of a number."""

    method: str
    number: int
    seed: int


def removing_methods(study: Study) -> list[str]:
    """Return the methods whose strongest sequences are removed."""
    return [*(method.name for method in methods_of(study)), BM25]


def removals(study: Study) -> list[str]:
    """Return the partition keys: random removals first, then each query's by every method."""
    drawn = study.evaluation
    numbered = [f"{RANDOM}-{number:02}" for number in range(drawn.random_removals)]
    methods = removing_methods(study)
    numbered += [f"{method}-{number:02}" for number in range(drawn.removal_queries) for method in methods]
    return [f"{name}.seed-{seed}" for name in numbered for seed in range(1, drawn.seeds + 1)]


def removal_of(partition: str) -> Removal:
    """Return what a partition lacks.

    Raises:
        InputError: it is not a partition key.
    """
    match = _PARTITION.fullmatch(partition)
    if match is None:
        raise InputError(partition, "is not a removal", f"Name a partition such as {MAIN}-00.seed-1.")
    return Removal(match[1], int(match[2]), int(match[3]))


def _reads(partition: str | None, asset: str) -> bool:
    """Return whether a removal depends on an asset: random ones on no scores, those by words on the queries alone."""
    method = removal_of(str(partition)).method
    if asset in ("influence_scores", "method_scores"):
        return method not in (RANDOM, BM25) and (asset == "influence_scores") == (method == MAIN)
    return not (asset == "query_gradients" and method == RANDOM)


def _settings(study: Study) -> Mapping[str, Any]:
    return {"removal_share": study.evaluation.removal_share, "draw_seed": study.evaluation.seed}


def _compute(work: Work) -> None:
    recipe_of(work.study, 0)  # refuses a model that cannot be trained again before anything is read

    removal = removal_of(str(work.partition.name))
    shards = work.open_all("token_sequences")
    sequences = pl.concat(shard.table("sequences").select("sequence_id", "text").collect() for shard in shards)
    count = max(1, round(work.study.evaluation.removal_share * sequences.height))
    query_id, scores = _scores(work, removal, sequences)
    removed = np.argsort(-scores, kind="stable")[:count]
    is_kept = np.ones(sequences.height, np.bool_)
    is_kept[removed] = False
    outcomes = train_part(work, part_of(training_tokens(shards), is_kept[:, None]), removal.seed)
    work.draft.table(
        "removal_outcomes",
        outcomes.select(
            pl.lit(removal.method).alias("method"),
            pl.lit(removal.number, pl.Int32).alias("removal"),
            pl.lit(query_id, pl.String).alias("removed_for"),
            pl.lit(removal.seed, pl.Int32).alias("seed"),
            "query_id",
            "log_probability_nats",
        ),
    )
    work.draft.table("removed_sequences", sequences[removed].select("sequence_id"))
    work.draft.summarise(method=removal.method, removal=removal.number, removed_for=query_id, removed=count)


def _scores(work: Work, removal: Removal, sequences: pl.DataFrame) -> "tuple[str | None, NDArray[np.float64]]":
    """Return the query that a removal is for, and the score of each sequence, of which the highest are removed."""
    seed = work.study.evaluation.seed
    if removal.method == RANDOM:
        return None, np.random.default_rng([seed, removal.number, 1]).permutation(sequences.height).astype(np.float64)
    queries = pl.concat(
        artifact.table("queries").select("query_id", "prompt", "completion").collect()
        for artifact in work.open_all("query_gradients")
    ).sort("query_id")
    if removal.number >= queries.height:
        problem = f"asks for {work.study.evaluation.removal_queries} queries, but there are {queries.height}"
        raise InputError("evaluation.removal_queries", problem, f"Set it to {queries.height} or fewer.")
    query = queries.row(int(np.random.default_rng([seed, 2]).permutation(queries.height)[removal.number]), named=True)
    query_id = str(query["query_id"])
    if removal.method == BM25:
        from influence_assets.analysis.word_overlap import bm25_scores

        return query_id, bm25_scores(list(sequences["text"]), [query["prompt"] + query["completion"]])[0]
    rows = _stored(work, removal.method, query_id)
    joined = sequences.select("sequence_id").join(rows, on="sequence_id", how="left", maintain_order="left")
    return query_id, joined["score"].to_numpy()


def _stored(work: Work, method: str, query_id: str) -> pl.DataFrame:
    """Return a method's scores of all sequences for a query: `sequence_id` and `score`."""
    of_query = pl.col("query_id") == query_id
    if method == MAIN:
        artifacts = work.open_all("influence_scores")
        tables = [a.table("influence_scores").filter(of_query).rename({"influence_nats": "score"}) for a in artifacts]
    else:
        of_method = of_query & (pl.col("method") == method)
        tables = [a.table("method_scores").filter(of_method) for a in work.open_all("method_scores")]
    return pl.concat(table.select("sequence_id", "score") for table in tables).collect()


def _cost(sizes: Any, _partition: Partition) -> Cost:
    return training_cost(sizes, 1 - sizes.study.evaluation.removal_share)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"Trained without {figures['removed']:,} sequences, to a loss of {figures['final_loss_nats']:.3g} "
        "nats a token."
    }


ASSET = AssetDefinition(
    name="retrained_removals",
    group="evaluation",
    description=(
        "Models trained again without the sequences that a method scores highest for one query, or without as many "
        "random ones, each partition with one seed. Computed on request."
    ),
    kinds=frozenset({"torch"}),
    partitioned_by="listed",
    listed=removals,
    inputs=("language_model", "token_sequences", "query_gradients", "influence_scores", "method_scores"),
    reads=("questions",),
    code_version="1",
    settings=_settings,
    source_content=questions,
    compute=_compute,
    frozen=OfTrainedShards(_reads),
    on_request=True,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=training_memory, like="language_model"),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "the queries changed",
)
