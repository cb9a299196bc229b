"""A made-up asset with a table of its own: how varied the tokens of each training sequence are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.storage.artifacts import Artifact

SCHEMA = pl.Schema({"sequence_id": pl.Int64, "distinct_tokens": pl.Int32, "entropy_bits": pl.Float64})


def entropy_bits(counts: np.ndarray) -> float:
    """H = −Σ p log₂ p of what was counted, in bits."""
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


def _compute(work: Work) -> None:
    packed = work.open("token_sequences")
    ids = packed.table("sequences").select("sequence_id").collect()["sequence_id"]
    lengths = packed.array("lengths")
    counted = [
        np.unique(row[:length], return_counts=True)[1]
        for row, length in zip(packed.array("tokens"), lengths, strict=True)
    ]
    varieties = {
        "sequence_id": ids,
        "distinct_tokens": [len(counts) for counts in counted],
        "entropy_bits": [entropy_bits(counts) for counts in counted],
    }
    work.draft.table("token_varieties", pl.DataFrame(varieties, schema=SCHEMA))
    work.draft.summarise(sequences=len(ids), mean_entropy_bits=float(np.mean(varieties["entropy_bits"])))


def _entropies_are_possible(artifact: Artifact, _open: Opener) -> Finding:
    """Compare each entropy with log₂ of the number of distinct tokens, which is the largest that it can be."""
    largest = pl.col("distinct_tokens").log(2) + 1e-9
    impossible = artifact.table("token_varieties").filter(~pl.col("entropy_bits").is_between(0, largest)).collect()
    return Finding(impossible.is_empty(), {"impossible": Table(impossible)})


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    least = artifact.table("token_varieties").sort("entropy_bits").head(5).collect()
    return {"least_varied": Table(least)}


def _cost(sizes: Any, partition: Partition) -> Cost:
    return Cost(bytes=None, amount=sizes.sequences(str(partition.shard)))


ASSET = AssetDefinition(
    name="token_varieties",
    group="corpus",
    description="How many different tokens each training sequence has, and their entropy.",
    kinds=frozenset({"parquet"}),
    partitioned_by="shard",
    inputs=("token_sequences",),
    code_version="1",
    compute=_compute,
    holds_text=True,
    is_published=True,
    cost=CostModel(partition=_cost),
    checks=EachOf(
        Check(
            "entropies_are_possible", "No entropy exceeds that of tokens that are all as frequent.",
            _entropies_are_possible,
        )
    ),
    shown=_shown,
    sql=Path(__file__).parent / "sql",
)  # fmt: skip
