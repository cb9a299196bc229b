"""The asset `term_counts`: how often each word is in each passage of a shard."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from influence_assets.assets.method_rows import listed
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact


def _compute(work: Work) -> None:
    from influence_assets.analysis.term_counts import PassageCounts
    from influence_assets.layouts.sequences import passages_of

    passages = passages_of(work.open("token_sequences"))
    documents = work.open("documents").table("documents").select("document_id", "text").collect()
    of_documents = dict(documents.iter_rows())
    spans = passages.select("document_id", "character_start", "character_end").iter_rows()
    counted = PassageCounts.of([of_documents[document][start:end] for document, start, end in spans])
    work.draft.table(
        "passages", passages.select("sequence_id", "document_id", words=pl.Series(counted.lengths, dtype=pl.Int64))
    )
    work.draft.table("term_counts", counted.counts)
    work.draft.table("passage_frequencies", counted.frequencies())
    work.draft.summarise(passages=passages.height, words=int(counted.lengths.sum()), terms=counted.counts.height)


def counts_add_up(artifact: Artifact, _open: Opener) -> Finding:
    """Compare the words of all passages with the sum of the counts."""
    counted = int(artifact.table("term_counts").select(pl.col("count").cast(pl.Int64).sum()).collect().item())
    words = int(artifact.table("passages").select(pl.col("words").sum()).collect().item())
    return Finding(counted == words, {"counted": counted, "words": words})


def _cost(sizes: Any, partition: Partition) -> Cost:
    return Cost(bytes=None, amount=sizes.source_bytes(str(partition.shard)))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"{figures['words']:,} words in {figures['passages']:,} passages."}


ASSET = AssetDefinition(
    name="term_counts",
    group="corpus",
    description=(
        "How often each word is in each document's part of each sequence of the shard, and in how many parts it is. "
        "Needed by the method bm25."
    ),
    kinds=frozenset({"polars", "parquet"}),
    partitioned_by="shard",
    inputs=("documents", "token_sequences"),
    code_version="1",
    compute=_compute,
    on_request=True,
    is_requested=listed("bm25"),
    only_by_settings=True,
    holds_text=True,
    cost=CostModel(partition=_cost),
    checks=EachOf(Check("counts_add_up", "The counts of a passage's words sum to its length.", counts_add_up)),
    shown=_shown,
)
