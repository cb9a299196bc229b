"""The strongest sequences for each query, ranked from an earlier ranking and new scores where that is possible."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from influence_assets.engine.definition import Work
from influence_assets.engine.partitions import Partition
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest

PAIR = ("query_id", "sequence_id")
STRONGEST_SCHEMA = pl.Schema(
    {"query_id": pl.String, "sequence_id": pl.Int64, "shard_id": pl.String, "influence_nats": pl.Float64}
)
COMMON = frozenset({"language_model", "eigenbases", "curvature", "query_gradients"})
"""Inputs that an earlier artifact must share, because they change every score."""


@dataclass(frozen=True)
class Earlier:
    """Earlier details of the same queries with the same curvature, for a corpus that has changed since.

    Args:
        artifact: the stored details, all of whose files were just checked.
    """

    artifact: Artifact

    @cached_property
    def strongest(self) -> pl.DataFrame:
        """The strongest sequences of the earlier ranking, with their shards and scores."""
        return self.artifact.table("strongest").collect()

    def shared(self, inputs: Iterable[ArtifactKey], asset: str) -> dict[str | None, ArtifactKey]:
        """Return those inputs of an asset that the earlier details were computed from too, by partition."""
        own = set(self.artifact.manifest.inputs)
        return {key.partition: key for key in inputs if key.asset == asset and key in own}

    def split(self, table: str, pairs: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a table of splits for these pairs."""
        return self.artifact.table(table).join(pairs.lazy().select(PAIR), on=PAIR, how="semi").collect()


def earlier_details(work: Work) -> Earlier | None:
    """Return the stored details of this query set that share the most inputs with this work; None if none can be used.

    Every file is checked first, because damaged rows would otherwise be copied.
    """
    store, inputs = work.workspace.store, set(work.inputs)
    candidates = [m for m in store.manifests(work.key.asset, work.key.partition) if _is_usable(m, work)]
    for manifest in sorted(candidates, key=lambda m: (-len(inputs.intersection(m.inputs)), m.data_version)):
        with suppress(StorageError):
            artifact = store.open(manifest.key)
            if not artifact.verify():
                return Earlier(artifact)
    return None


def _is_usable(manifest: Manifest, work: Work) -> bool:
    settings = json.loads(json.dumps(dict(work.asset.settings(work.study))))
    common = {key for key in work.inputs if key.asset in COMMON}
    return (
        manifest.key != work.key
        and manifest.code_version == work.asset.code_version
        and manifest.settings == settings
        and {key for key in manifest.inputs if key.asset in COMMON} == common
    )


def strongest_pairs(work: Work, earlier: Earlier | None) -> pl.DataFrame:
    """Return each query's highest and lowest scores over all shards, sorted, as `STRONGEST_SCHEMA`.

    The strongest of a union are among the strongest of its parts. So if no shard that is gone now was among the earlier
    strongest, those and the scores of new shards are enough.
    """
    count = work.study.scores.details_per_query
    scores = {key for key in work.inputs if key.asset == "influence_scores"}
    parts = [pl.DataFrame(schema=STRONGEST_SCHEMA)]
    unread = scores
    if earlier is not None:
        ranked = {key for key in earlier.artifact.manifest.inputs if key.asset == "influence_scores"}
        gone = [shard_of(key) for key in ranked - scores]
        if not earlier.strongest["shard_id"].is_in(gone).any():
            parts.append(earlier.strongest)
            unread = scores - ranked
    for done, key in enumerate(sorted(unread, key=lambda key: key.partition or ""), start=1):
        scored = work.workspace.store.open(key).table("influence_scores").select(*PAIR, "influence_nats").collect()
        shard = pl.lit(shard_of(key), pl.String).alias("shard_id")
        parts.append(extremes(scored, count).with_columns(shard).select(STRONGEST_SCHEMA.names()))
        if done % 64 == 0:  # so that thousands of shards are not in memory at once
            parts = [extremes(pl.concat(parts), count)]
    return extremes(pl.concat(parts), count)


def extremes(scores: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return the `count` highest and `count` lowest scores of each query; of equal scores, the smaller id is lower.

    If ties depended on the order of reading, a corpus that grew would give another answer than the same corpus read at
    once.
    """
    ordered = scores.sort("query_id", "influence_nats", "sequence_id")
    place, size = pl.int_range(pl.len()).over("query_id"), pl.len().over("query_id")
    return ordered.filter((place < count) | (place >= size - count))


def unchanged(strongest: pl.DataFrame, inputs: Sequence[ArtifactKey], earlier: Earlier | None) -> pl.DataFrame:
    """Return the pairs that were split before and whose shard still has the same artifact of tokens."""
    if earlier is None:
        return strongest.clear()
    shards = [shard for shard in earlier.shared(inputs, "token_sequences") if shard is not None]
    before = earlier.strongest.select(*PAIR, "shard_id")
    return strongest.filter(pl.col("shard_id").is_in(shards)).join(before, on=[*PAIR, "shard_id"], how="semi")


def shard_of(pair: ArtifactKey) -> str:
    """Return the shard of an artifact whose partition is a pair of query set and shard."""
    return str(Partition.parse("pair", pair.partition).shard)
