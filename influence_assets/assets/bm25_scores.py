"""The asset `bm25_scores`: how well the words of each query of a set match those of each passage."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from influence_assets.assets.method_rows import listed, write_scores
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.engine.workspace import Workspace
from influence_assets.methods.method import ScoredMethod
from influence_assets.storage.artifacts import Artifact

BYTES_PER_SCORE = 16


def _compute(work: Work) -> None:
    from influence_assets.analysis.term_counts import CorpusCounts
    from influence_assets.analysis.word_overlap import words_of
    from influence_assets.corpus.queries import read_query_set

    file = work.workspace.query_file(str(work.partition.query_set))
    rows = read_query_set(file)
    work.workspace.refuse_changed(file)
    queries = words_of(list(rows["prompt"] + rows["completion"]))
    words = sorted({word for query in queries for word in query})
    shards = work.open_all("term_counts")
    corpus = CorpusCounts.total(_corpus_counts(shard, words) for shard in shards)
    scores = np.concatenate([_scores(shard, words, queries, corpus) for shard in shards], axis=1)
    passages = pl.concat(shard.table("passages").select("sequence_id", "document_id").collect() for shard in shards)
    write_scores(work, rows["query_id"].to_list(), passages, scores, sequence_passes=0)


def _corpus_counts(shard: Artifact, words: list[str]) -> Any:
    """Return the counts of a shard that add up."""
    from influence_assets.analysis.term_counts import CorpusCounts

    figures = shard.manifest.summary
    frequencies = shard.table("passage_frequencies").filter(pl.col("word").is_in(words)).collect()
    return CorpusCounts(int(figures["passages"]), int(figures["words"]), dict(frequencies.iter_rows()))


def _scores(shard: Artifact, words: list[str], queries: list[list[str]], corpus: Any) -> np.ndarray:
    """Return the scores of a shard's passages, float64 [query, passage]."""
    from influence_assets.analysis.term_counts import PassageCounts

    counts = shard.table("term_counts").filter(pl.col("word").is_in(words)).collect()
    lengths = shard.table("passages").select("words").collect()["words"].to_numpy()
    scores: np.ndarray = corpus.scores(PassageCounts(counts, lengths), queries)
    return scores


def _source_content(workspace: Workspace, partition: Partition) -> Mapping[str, Any]:
    return {"content": workspace.query_hash(workspace.query_file(str(partition.query_set)))}


def _cost(sizes: Any, partition: Partition) -> Cost:
    sequences, queries = sizes.all_sequences(), sizes.queries(str(partition.query_set))
    return Cost(bytes=sequences * queries * BYTES_PER_SCORE, amount=sequences)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences."}


ASSET = AssetDefinition(
    name="bm25_scores",
    group="attribution",
    description=(
        "BM25 of the words of each query and of each document's part of each sequence, of which a sequence has the "
        "sum: what a search for words finds, without a model. Its index follows the corpus shard by shard."
    ),
    kinds=frozenset({"polars", "parquet"}),
    partitioned_by="query_set",
    inputs=("term_counts", "token_sequences"),  # so that counts of some shards alone are never those of the corpus
    reads=("query_files",),
    code_version="1",
    source_content=_source_content,
    compute=_compute,
    on_request=True,
    is_requested=listed("bm25"),
    only_by_settings=True,
    method=ScoredMethod(name="bm25", unit=None),
    holds_text=True,
    is_published=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "its query file changed",
)
