"""The step that looks closer at the strongest influences of a query set.

Its cost follows what is new: the ranking starts from an earlier one of the same questions (`pipeline.strongest`), and
splits of pairs that are still among the strongest are copied.
"""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from influence_assets.analysis.agreement import agreement
from influence_assets.capture.batches import Sequences
from influence_assets.capture.details import score_details
from influence_assets.capture.runner import Runner
from influence_assets.capture.sign_codes import SignCodes, estimate
from influence_assets.capture.sketches import query_sketches
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.maths.ekfac import Eigenbasis
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.pipeline import passes
from influence_assets.pipeline.attribution import eigenbases_of, layer_curvatures, read_codes
from influence_assets.pipeline.queries import Preconditioned, unconditioned
from influence_assets.pipeline.steps import Work
from influence_assets.pipeline.strongest import PAIR, Earlier, earlier_details, shard_of, strongest_pairs, unchanged
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.manifest import ArtifactKey

LAYER_SCHEMA = pl.Schema(
    {
        "query_id": pl.String,
        "sequence_id": pl.Int64,
        "generation_id": pl.Int32,
        "module_name": pl.String,
        "influence_nats": pl.Float64,
    }
)
TOKEN_SCHEMA = pl.Schema(
    {
        "query_id": pl.String,
        "sequence_id": pl.Int64,
        "generation_id": pl.Int32,
        "token_position": pl.Int32,
        "token": pl.String,
        "influence_nats": pl.Float64,
    }
)

COMPARED_SEQUENCES = 2_000
"""Enough to measure a correlation by; more would only cost time."""

COMPARED_SHARDS = 8
"""The sketches of at most so many shards are compared, however many there are."""


class Splits(NamedTuple):
    """Rows of `layer_influence` and of `token_influence`."""

    layers: pl.DataFrame
    tokens: pl.DataFrame


def influence_details(work: Work) -> None:
    """How the highest and lowest scores of each query split over layers and over training tokens.

    Both splits add up to the score. The sketches' estimates are compared with the exact scores here too, on the
    study's own questions.
    """
    earlier = earlier_details(work)
    strongest = strongest_pairs(work, earlier)
    copied = unchanged(strongest, work.inputs, earlier)
    fresh = strongest.join(copied, on=PAIR, how="anti")
    loaded = _Loaded(work, len(fresh))
    parts = [Splits(pl.DataFrame(schema=LAYER_SCHEMA), pl.DataFrame(schema=TOKEN_SCHEMA)), *_measured(loaded, fresh)]
    if earlier is not None:
        parts.append(Splits(earlier.split("layer_influence", copied), earlier.split("token_influence", copied)))
    work.draft.table("strongest", strongest)
    for name, frames in zip(("layer_influence", "token_influence"), zip(*parts, strict=True), strict=True):
        work.draft.table(name, pl.concat(frames).sort(PAIR, maintain_order=True))
    questions = work.open("query_gradients").manifest.summary
    work.draft.summarise(
        queries=questions["queries"],
        split_scores=len(strongest),
        copied_splits=len(copied),
        generation_id=questions["generation_id"],
        sketch_agreement=_sketch_agreement(loaded, earlier),
    )


class _Loaded:
    """The model and the questions, loaded when something has to be measured with them, and not before."""

    def __init__(self, work: Work, measured: int) -> None:
        self.work = work
        self._measured = measured

    @cached_property
    def runner(self) -> Runner:
        work = self.work
        return passes.runner(work.workspace, work.open("language_model"), work.progress, self._measured)

    @cached_property
    def queries(self) -> Preconditioned:
        return Preconditioned(self.work.open("query_gradients"), self.runner.device)

    @cached_property
    def bases(self) -> dict[str, Eigenbasis]:
        return eigenbases_of(self.work, self.runner)

    @cached_property
    def tokenization(self) -> Tokenization:
        return Tokenization.load(self.work.open("language_model").path("tokenizer"))


def _measured(loaded: _Loaded, pairs: pl.DataFrame) -> Iterable[Splits]:
    """The splits of these pairs, query by query."""
    if pairs.is_empty():
        return
    sequences = _sequences(loaded.work, pairs)
    queries, modules = loaded.queries, [linear.name for linear in loaded.runner.modules]
    for index, query_id in enumerate(queries.query_ids):
        asked = pairs.filter(pl.col("query_id") == query_id)["sequence_id"]
        if not len(asked):
            continue
        rows = sequences.take(np.flatnonzero(np.isin(sequences.keys, asked.to_numpy())))
        P = {name: loaded.bases[name].rotate_back(p) for name, p in queries.layers(slice(index, index + 1)).items()}
        details = score_details(loaded.runner, rows, P, queries.N)
        layers = _labelled(_layer_rows(details.by_layer[0], rows, modules), query_id, queries)
        tokens = _labelled(_token_rows(details.by_token[0], rows, loaded.tokenization), query_id, queries)
        yield Splits(layers.select(LAYER_SCHEMA.names()), tokens.select(TOKEN_SCHEMA.names()))


def _sequences(work: Work, pairs: pl.DataFrame) -> Sequences:
    """The sequences named, each once, gathered from their shards."""
    parts = []
    for artifact in _of_shards(work, "token_sequences", set(pairs["shard_id"])):
        wanted = pairs.filter(pl.col("shard_id") == artifact.key.partition)["sequence_id"].unique().to_numpy()
        shard = passes.shard_sequences(artifact)
        parts.append(shard.take(np.flatnonzero(np.isin(shard.keys, wanted))))
    tokens, lengths, keys = (
        np.concatenate([getattr(part, n) for part in parts]) for n in ("tokens", "lengths", "keys")
    )
    return Sequences(tokens, lengths, keys)


def _of_shards(work: Work, asset: str, shards: set[str]) -> list[Artifact]:
    """The inputs of an asset that are of these shards, in the order of their names."""
    keys = {str(key.partition): key for key in work.inputs if key.asset == asset}
    return [work.workspace.store.open(keys[shard]) for shard in sorted(shards)]


def _labelled(rows: pl.DataFrame, query_id: str, queries: Preconditioned) -> pl.DataFrame:
    generation = pl.lit(queries.generation_id, pl.Int32)
    return rows.with_columns(pl.lit(query_id).alias("query_id"), generation.alias("generation_id"))


def _layer_rows(by_layer: np.ndarray, rows: Sequences, modules: list[str]) -> pl.DataFrame:
    """One row for each sequence and layer of [sequence, layer]."""
    return pl.DataFrame(
        {
            "sequence_id": np.repeat(rows.keys, len(modules)),
            "module_name": modules * len(rows),
            "influence_nats": by_layer.reshape(-1),
        }
    )


def _token_rows(by_token: np.ndarray, rows: Sequences, tokenization: Tokenization) -> pl.DataFrame:
    """One row for each input token of [sequence, token], with its text; padding is left out."""
    real = np.arange(rows.tokens.shape[1])[None, :] < rows.lengths[:, None]
    sequence, position = np.nonzero(real)
    texts = {int(t): tokenization.tokenizer.decode([int(t)], skip_special_tokens=False) for t in np.unique(rows.tokens)}
    return pl.DataFrame(
        {
            "sequence_id": rows.keys[sequence],
            "token_position": position.astype(np.int32),
            "token": [texts[int(token)] for token in rows.tokens[real]],
            "influence_nats": by_token[real],
        }
    )


class _Compared(NamedTuple):
    """What the sketches of a shard are compared by."""

    sketches: ArtifactKey
    tokens: ArtifactKey
    scores: ArtifactKey


def _compared(inputs: Iterable[ArtifactKey]) -> list[_Compared]:
    """A few shards, drawn by the hash of their names: a shard that comes or goes rarely changes the draw."""
    keys: dict[str, dict[str, ArtifactKey]] = {"gradient_sketches": {}, "token_sequences": {}, "influence_scores": {}}
    for key in inputs:
        if key.asset in keys:
            shard = shard_of(key) if key.asset == "influence_scores" else str(key.partition)
            keys[key.asset][shard] = key
    drawn = sorted(keys["gradient_sketches"], key=lambda shard: hashlib.sha256(shard.encode()).digest())
    return [_Compared(*(of_shard[shard] for of_shard in keys.values())) for shard in drawn[:COMPARED_SHARDS]]


def _sketch_agreement(loaded: _Loaded, earlier: Earlier | None) -> dict[str, Any] | None:
    """Exact scores against the sketches' estimates, over a few shards; copied where those are what they were."""
    compared = _compared(loaded.work.inputs)
    if earlier is not None and _compared(earlier.artifact.manifest.inputs) == compared:
        found: dict[str, Any] | None = earlier.artifact.manifest.summary["sketch_agreement"]
        return found
    if not compared:  # every document was withdrawn
        return None
    layers, queries, store = layer_curvatures(loaded.work, loaded.runner), loaded.queries, loaded.work.workspace.store
    coordinates = strongest_coordinates(layers, loaded.work.study.sketches.coordinates)
    gradients = (unconditioned(queries.layers(rows), layers) for rows in queries.chunks())
    questions = np.concatenate([query_sketches(V, layers, coordinates, queries.N) for V in gradients])
    exact: list[np.ndarray] = []
    estimated: list[np.ndarray] = []
    for shard in compared:
        ids = store.open(shard.tokens).table("sequences").select("sequence_id")
        keys = ids.head(COMPARED_SEQUENCES - sum(part.shape[1] for part in exact)).collect()["sequence_id"].to_numpy()
        exact.append(_matrix(store.open(shard.scores).table("influence_scores").collect(), queries.query_ids, keys))
        estimated += [estimate(questions, codes) for codes in _first_codes(store.open(shard.sketches), len(keys))]
    agreed = agreement(np.concatenate(exact, axis=1), np.concatenate(estimated, axis=1))
    return None if agreed is None else agreed.rounded()


def _first_codes(sketches: Artifact, count: int) -> Iterable[SignCodes]:
    """The codes of a shard's first sequences."""
    for codes in read_codes(sketches):
        if count <= 0:
            return
        yield SignCodes(codes.signs[:count], codes.scales[:count])
        count -= len(codes.scales)


def _matrix(scores: pl.DataFrame, query_ids: list[str], keys: np.ndarray) -> np.ndarray:
    """[query, sequence] in the order given."""
    order = pl.DataFrame({"query_id": query_ids}).join(pl.DataFrame({"sequence_id": keys}), how="cross")
    joined = order.join(scores, on=["query_id", "sequence_id"], how="left", maintain_order="left")
    return joined["influence_nats"].to_numpy().reshape(len(query_ids), len(keys))
