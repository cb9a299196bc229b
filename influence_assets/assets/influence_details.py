"""The asset `influence_details`: the strongest scores of each query, split over layers and training tokens.

Its cost depends only on what is new: the ranking starts from an earlier one of the same queries (`assets.strongest`),
and splits of pairs that are still among the strongest are copied.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from influence_assets.assets.fitted_pass import curvature_bytes, curvature_form
from influence_assets.assets.strongest import PAIR, Earlier, earlier_details, shard_of, strongest_pairs, unchanged
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.methods.registry import MAIN
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import ArtifactKey

if TYPE_CHECKING:
    from torch import Tensor

    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.details import Details, Pairs
    from influence_assets.capture.layer_groups import Demand
    from influence_assets.capture.layer_vectors import Sized
    from influence_assets.capture.runner import Runner
    from influence_assets.capture.sign_codes import SignCodes
    from influence_assets.corpus.tokenization import Tokenization
    from influence_assets.maths.sketches import Coordinates
    from influence_assets.models.layers.rule import AttributedLayer

TOLERANCE = 1e-3
"""Relative rounding of sums over layers and tokens in float32."""

BYTES_A_ROW = 20
"""Bytes of a row of Parquet: the influence and the sequence's id do not compress, the rest does."""

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
"""Enough sequences to measure a correlation; more would only cost time."""

COMPARED_SHARDS = 8
"""The most shards whose sketches are compared, however many there are."""


class Splits(NamedTuple):
    """Rows of `layer_influence` and of `token_influence`."""

    layers: pl.DataFrame
    tokens: pl.DataFrame


def _compute(work: Work) -> None:
    earlier = earlier_details(work)
    strongest = strongest_pairs(work, earlier)
    copied = unchanged(strongest, work.inputs, earlier)
    fresh = strongest.join(copied, on=PAIR, how="anti")
    chunks = [] if fresh.is_empty() else _chunks(work, fresh)
    loaded = _Loaded(work, sum(pairs["sequence_id"].n_unique() for _, pairs in chunks))
    parts = [Splits(pl.DataFrame(schema=LAYER_SCHEMA), pl.DataFrame(schema=TOKEN_SCHEMA)), *_measured(loaded, chunks)]
    if earlier is not None:
        parts.append(Splits(earlier.split("layer_influence", copied), earlier.split("token_influence", copied)))
    work.draft.table("strongest", strongest)
    for name, frames in zip(("layer_influence", "token_influence"), zip(*parts, strict=True), strict=True):
        work.draft.table(name, pl.concat(frames).sort(PAIR, maintain_order=True))
    gradients = work.open("query_gradients").manifest.summary
    work.draft.summarise(
        queries=gradients["queries"],
        split_scores=len(strongest),
        copied_splits=len(copied),
        generation_id=gradients["generation_id"],
        sketch_agreement=_sketch_agreement(loaded, earlier),
    )


class _Loaded:
    """The model and the queries, loaded only when they are needed for a measurement."""

    def __init__(self, work: Work, measured: int) -> None:
        self.work = work
        self._measured = measured

    @cached_property
    def runner(self) -> "Runner":
        from influence_assets.layouts.model import runner

        work = self.work
        return runner(work.workspace, work.open("language_model"), work.progress, self._measured)

    @cached_property
    def tokenization(self) -> "Tokenization":
        from influence_assets.corpus.tokenization import Tokenization

        return Tokenization.load(self.work.open("language_model").path("tokenizer"))


def _chunks(work: Work, pairs: pl.DataFrame) -> list[tuple[slice, pl.DataFrame]]:
    """Return the queries that are held at a time, with their pairs and the number of each pair's query among them."""
    from influence_assets.layouts.queries import chunks_of

    gradients = work.open("query_gradients")
    numbers = gradients.table("queries").select("query_id").with_row_index("query").collect()
    numbered = pairs.join(numbers, on="query_id", maintain_order="left").with_columns(pl.col("query").cast(pl.Int64))
    chunks = []
    for rows in chunks_of(gradients):
        own = numbered.filter(pl.col("query").is_between(rows.start, rows.stop, closed="left"))
        if own.height:  # otherwise those of all its queries are copied
            held = slice(own.select(pl.min("query")).item(), own.select(pl.max("query")).item() + 1)
            chunks.append((held, own.with_columns(pl.col("query") - held.start)))
    return chunks


def _measured(loaded: _Loaded, chunks: list[tuple[slice, pl.DataFrame]]) -> Iterable[Splits]:
    """Yield the splits of the pairs of each chunk; each sequence goes through the model once for all its queries."""
    from influence_assets.capture.details import Pairs

    if not chunks:
        return
    sequences = _sequences(loaded.work, pl.concat(pairs for _, pairs in chunks))
    modules = [linear.name for linear in loaded.runner.modules]
    generation = int(loaded.work.open("query_gradients").manifest.summary["generation_id"])
    for rows, pairs in chunks:
        ids = pairs["sequence_id"].to_numpy()
        own = sequences.take(np.flatnonzero(np.isin(sequences.keys, ids)))
        by_key = np.argsort(own.keys)
        place = by_key[np.searchsorted(own.keys, ids, sorter=by_key)]
        details = _details(loaded, rows, own, Pairs(pairs["query"].to_numpy(), place))
        named = pairs.select("query_id", "sequence_id", pl.lit(generation, pl.Int32).alias("generation_id"))
        yield Splits(
            _layer_rows(details.by_layer, named, modules),
            _token_rows(details.by_token, named, own.take(place), loaded.tokenization),
        )


def _details(loaded: _Loaded, rows: slice, sequences: "Sequences", pairs: "Pairs") -> "Details":
    """Return the split of some queries' pairs, in a pass for each group of layers that fits into memory."""
    from influence_assets.capture.details import Details, score_details
    from influence_assets.capture.layer_groups import Demand, groups_in_memory, itemsize_of

    whole = loaded.runner
    queries: int = rows.stop - rows.start
    itemsize, form = itemsize_of(whole), curvature_form(loaded.work.study)
    spare = max(
        curvature_bytes(form, layer, itemsize) + _vector_bytes(layer, queries, itemsize) for layer in whole.modules
    )
    demand = Demand[Any](lambda layer: _vector_bytes(layer, queries, itemsize), spare=spare)
    N = int(loaded.work.open("query_gradients").manifest.summary["training_sequences"])
    parts = []
    for group in groups_in_memory(whole, demand, sequences.tokens.shape[1]):
        runner = replace(whole, modules=group.layers)
        P = {layer.name: _P_of(loaded, layer, rows) for layer in group.layers}
        parts.append(score_details(runner, sequences, P, N, pairs))
    by_layer = np.concatenate([part.by_layer for part in parts], axis=1)
    return Details(by_layer, np.sum([part.by_token for part in parts], axis=0))


def _vector_bytes(layer: "Sized", queries: int, itemsize: int) -> int:
    return queries * layer.output_width * layer.input_width * itemsize


def _P_of(loaded: _Loaded, layer: "AttributedLayer", rows: slice) -> "Tensor":  # noqa: N802  # the letter of P
    """Return some queries' P of one layer in the model's coordinates, so that only its curvature is in memory."""
    from influence_assets.layouts.factors import curvature_on
    from influence_assets.layouts.queries import StoredQueries

    work, runner = loaded.work, replace(loaded.runner, modules=[layer])
    curvature = curvature_on(runner, work.open("eigenbases"), work.open("curvature"))
    P = StoredQueries(work.open("query_gradients"), runner, curvature).layers(rows, MAIN)
    return curvature[layer.name].basis.to(layer.device).rotate_back(P[layer.name])


def _sequences(work: Work, pairs: pl.DataFrame) -> "Sequences":
    """Return the sequences of these pairs, each once, collected from their shards."""
    from influence_assets.capture.batches import Sequences
    from influence_assets.layouts.sequences import shard_sequences

    parts = []
    for artifact in _of_shards(work, "token_sequences", set(pairs["shard_id"])):
        ids = pairs.filter(pl.col("shard_id") == artifact.key.partition)["sequence_id"].unique().to_numpy()
        shard = shard_sequences(artifact)
        parts.append(shard.take(np.flatnonzero(np.isin(shard.keys, ids))))
    return Sequences.joined(parts)


def _of_shards(work: Work, asset: str, shards: set[str]) -> list[Artifact]:
    """Return the inputs of an asset for these shards, in the order of the shards' names."""
    keys = {str(key.partition): key for key in work.inputs if key.asset == asset}
    return [work.workspace.store.open(keys[shard]) for shard in sorted(shards)]


def _layer_rows(by_layer: np.ndarray, pairs: pl.DataFrame, modules: list[str]) -> pl.DataFrame:
    """Return a frame with one row for each pair and layer in [pair, layer]."""
    rows = pairs[np.repeat(np.arange(len(pairs)), len(modules))]
    return rows.with_columns(
        pl.Series("module_name", modules * len(pairs), pl.String), pl.Series("influence_nats", by_layer.reshape(-1))
    )


def _token_rows(
    by_token: np.ndarray, pairs: pl.DataFrame, sequences: "Sequences", tokenization: "Tokenization"
) -> pl.DataFrame:
    """Return a frame with one row for each pair and input token in [pair, token], with its text and without padding.

    Args:
        by_token: the split over tokens.
        pairs: the pairs.
        sequences: the sequence of each pair.
        tokenization: the model's.
    """
    real = np.arange(sequences.tokens.shape[1])[None, :] < sequences.lengths[:, None]
    pair, position = np.nonzero(real)
    tokens = sequences.tokens[real]
    texts = {int(t): tokenization.tokenizer.decode([int(t)], skip_special_tokens=False) for t in np.unique(tokens)}
    return pairs[pair].with_columns(
        pl.Series("token_position", position.astype(np.int32)),
        pl.Series("token", [texts[int(token)] for token in tokens], pl.String),
        pl.Series("influence_nats", by_token[real]),
    )


class _Compared(NamedTuple):
    """The artifacts by which the sketches of a shard are compared with exact scores."""

    sketches: ArtifactKey
    tokens: ArtifactKey
    scores: ArtifactKey


def _compared(inputs: Iterable[ArtifactKey]) -> list[_Compared]:
    """Return a few shards, chosen by the hash of their names, so that adding or removing one rarely changes them."""
    keys: dict[str, dict[str, ArtifactKey]] = {"gradient_sketches": {}, "token_sequences": {}, "influence_scores": {}}
    for key in inputs:
        if key.asset in keys:
            shard = shard_of(key) if key.asset == "influence_scores" else str(key.partition)
            keys[key.asset][shard] = key
    drawn = sorted(keys["gradient_sketches"], key=lambda shard: hashlib.sha256(shard.encode()).digest())
    return [_Compared(*(of_shard[shard] for of_shard in keys.values())) for shard in drawn[:COMPARED_SHARDS]]


def _sketch_agreement(loaded: _Loaded, earlier: Earlier | None) -> dict[str, Any] | None:
    """Return the agreement of sketches with exact scores over a few shards, copied if those have not changed."""
    compared = _compared(loaded.work.inputs)
    if earlier is not None and _compared(earlier.artifact.manifest.inputs) == compared:
        copied: dict[str, Any] | None = earlier.artifact.manifest.summary["sketch_agreement"]
        return copied
    if not compared:  # every document was withdrawn
        return None
    from influence_assets.analysis.agreement import agreement
    from influence_assets.capture.sign_codes import estimate

    store = loaded.work.workspace.store
    query_ids = loaded.work.open("query_gradients").table("queries").select("query_id").collect()["query_id"].to_list()
    questions = _Questions(loaded)
    exact: list[np.ndarray] = []
    estimated: list[np.ndarray] = []
    for shard in compared:
        sketches = store.open(shard.sketches)
        if (factors := questions.of(sketches)) is None:
            continue
        ids = store.open(shard.tokens).table("sequences").select("sequence_id")
        keys = ids.head(COMPARED_SEQUENCES - sum(part.shape[1] for part in exact)).collect()["sequence_id"].to_numpy()
        exact.append(_matrix(store.open(shard.scores).table("influence_scores").collect(), query_ids, keys))
        estimated += [estimate(factors, codes) for codes in _first_codes(sketches, len(keys))]
    if not exact:
        return None
    agreed = agreement(np.concatenate(exact, axis=1), np.concatenate(estimated, axis=1))
    return None if agreed is None else agreed.rounded()


class _Questions:
    """The factors with which a shard's sketches are multiplied, for each query of the set.

    Args:
        loaded: what is loaded for the query set.
    """

    def __init__(self, loaded: _Loaded) -> None:
        from influence_assets.layouts.factors import StoredCurvature
        from influence_assets.layouts.outer_products import StoredGradients
        from influence_assets.layouts.sketches import KeptCoordinates
        from influence_assets.maths.notation import accumulation_dtype

        work = loaded.work
        self._queries = work.open("query_gradients").manifest.summary
        self._gradients = StoredGradients(work.open("query_gradients"))
        self._dtype = accumulation_dtype(loaded.runner.dtype)
        self._layers = StoredCurvature(work.open("eigenbases"), work.open("curvature"), self._dtype)
        self._kept = KeptCoordinates(self._layers, work.open("curvature"), work.study.sketches.coordinates)
        self._last: tuple[Coordinates, np.ndarray] | None = None

    def of(self, sketches: Artifact) -> np.ndarray | None:
        """Return the factors for the coordinates that a shard's sketches keep: float32 [query, width].

        None if it is not known which they are; a question marks such sketches, so that a run computes them again.
        """
        from influence_assets.layouts.sketches import UnknownCoordinatesError

        try:
            coordinates = self._kept.of(sketches)
        except UnknownCoordinatesError:
            return None
        if self._last is None or self._last[0] is not coordinates:
            parts = [self._of_layer(name, coordinates) for name in self._layers]
            self._last = coordinates, np.concatenate(parts, axis=1)
        return self._last[1]

    def _of_layer(self, name: str, coordinates: "Coordinates") -> np.ndarray:
        """Return one layer's share of the factors; only its gradients are in memory."""
        from influence_assets.capture.sketches import query_sketches

        layer = self._layers[name]
        V = self._gradients.of_layer(name, slice(0, int(self._queries["queries"])), layer.shape, self._dtype)
        return query_sketches({name: V}, {name: layer}, coordinates, int(self._queries["training_sequences"]))


def _first_codes(sketches: Artifact, count: int) -> "Iterable[SignCodes]":
    """Yield the codes of a shard's first sequences."""
    from influence_assets.capture.sign_codes import SignCodes
    from influence_assets.layouts.sketches import read_codes

    for codes in read_codes(sketches):
        if count <= 0:
            return
        yield SignCodes(codes.signs[:count], codes.scales[:count])
        count -= len(codes.scales)


def _matrix(scores: pl.DataFrame, query_ids: list[str], keys: np.ndarray) -> np.ndarray:
    """Return the scores as [query, sequence], in the order of these ids and keys."""
    order = pl.DataFrame({"query_id": query_ids}).join(pl.DataFrame({"sequence_id": keys}), how="cross")
    joined = order.join(scores, on=["query_id", "sequence_id"], how="left", maintain_order="left")
    return joined["influence_nats"].to_numpy().reshape(len(query_ids), len(keys))


def layers_sum_to_the_score(artifact: Artifact, open_input: Opener) -> Finding:
    """Compare the split over layers and the split over tokens with the stored score."""
    pair = ["query_id", "sequence_id"]
    strongest = artifact.table("strongest").select(*pair, "shard_id").collect()
    # The strongest are in few shards, however many shards there are.
    shards = set(strongest["shard_id"])
    keys = [key for key in artifact.manifest.inputs if key.asset == "influence_scores"]
    keys = [key for key in keys if Partition.parse("pair", key.partition).shard in shards]
    exact = [open_input(key).table("influence_scores").select(*pair, score="influence_nats") for key in keys]
    joined = strongest.lazy().select(pair)
    for name in ("layer_influence", "token_influence"):
        total = artifact.table(name).group_by(pair).agg(pl.col("influence_nats").sum().alias(name))
        joined = joined.join(total, on=pair, how="full", coalesce=True)
    empty = strongest.lazy().head(0).select(*pair, score=pl.lit(0.0))
    compared = joined.join(pl.concat([empty, *exact]), on=pair, how="left").collect()
    if compared.is_empty():
        return Finding(passed=True, figures={"scores": 0})
    # Relative to the query's largest score: small scores are differences of large parts, so they have rounding errors.
    size = pl.col("score").abs().max().over("query_id")
    # Polars' max ignores NaN.
    off = compared.select(
        pl.max_horizontal(
            ((pl.col(name) - pl.col("score")).abs().fill_nan(float("inf")) / size).max()
            for name in ("layer_influence", "token_influence")
        )
    ).item()
    complete = compared.null_count().sum_horizontal().item() == 0
    return Finding(
        complete and off is not None and off < TOLERANCE,
        {"largest_relative_difference": off, "scores": compared.height},
    )


def _cost(sizes: Any, partition: Partition) -> Cost:
    shape, count, sequences = sizes.shape, sizes.queries(str(partition.query_set)), sizes.all_sequences()
    pairs = count * min(2 * sizes.study.scores.details_per_query, sequences)
    passed = min(pairs, -(-count // _queries_at_once(sizes)) * sequences)
    rows = pairs * (shape.tokens + len(shape.layers))
    operations = passed * len(_groups(sizes)) * shape.passes() + pairs * shape.gradients() + count * shape.rotations()
    return Cost(operations, rows * BYTES_A_ROW)


def _memory(sizes: Any) -> int:
    spare = _demand(sizes).spare
    return int(sizes.pass_memory(spare + max(group.bytes for group in _groups(sizes))))


def _groups(sizes: Any) -> list[Any]:
    groups: list[Any] = sizes.layer_groups(_demand(sizes))
    return groups


def _demand(sizes: Any) -> "Demand[Any]":
    from influence_assets.capture.layer_groups import Demand

    queries = min(max(map(sizes.queries, sizes.query_tokens), default=0), _queries_at_once(sizes))
    itemsize = sizes.shape.sums_itemsize
    layers = sizes.shape.layers
    spare = max(sizes.curvature_bytes(layer) + _vector_bytes(layer, queries, itemsize) for layer in layers)
    return Demand(lambda layer: _vector_bytes(layer, queries, itemsize), spare=spare)


def _queries_at_once(sizes: Any) -> int:
    from influence_assets.layouts import LARGEST_QUERIES_BYTES

    return max(1, LARGEST_QUERIES_BYTES // int(sizes.gradient_bytes))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"{figures['split_scores']:,} scores of {figures['queries']:,} questions, split."}


ASSET = AssetDefinition(
    name="influence_details",
    group="attribution",
    description=(
        "How the highest and lowest scores of each query split over layers and over training tokens; both splits add "
        "up to the score. The sketches' estimates are compared with the exact scores here too."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="query_set",
    inputs=(
        "token_sequences",
        "language_model",
        "eigenbases",
        "curvature",
        "query_gradients",
        "gradient_sketches",
        "influence_scores",
    ),
    reads=("corpus",),
    code_version="3",
    settings=lambda study: {"details_per_query": study.scores.details_per_query},
    compute=_compute,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    checks=EachOf(
        Check(
            "layers_sum_to_the_score",
            "The split over layers and the split over tokens both add up to the score.",
            layers_sum_to_the_score,
        )
    ),
)
