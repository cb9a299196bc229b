"""The step that looks closer at the strongest influences of a query set."""

from dataclasses import replace

import numpy as np
import polars as pl

from influence_assets.analysis.agreement import agreement
from influence_assets.capture.batches import Sequences
from influence_assets.capture.measurements import Runner, query_sketches, score_details
from influence_assets.capture.sign_codes import estimate
from influence_assets.corpus.tokenization import Tokenization
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.pipeline import passes
from influence_assets.pipeline.attribution import layer_curvatures, read_codes
from influence_assets.pipeline.queries import Preconditioned, read_preconditioned, unconditioned
from influence_assets.pipeline.steps import Work

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

COMPARED_SEQUENCES = 20_000
"""Enough to measure a correlation by; more would only cost time."""


def influence_details(work: Work) -> None:
    """How the highest and lowest scores of each query split over layers and over training tokens.

    Both splits add up to the score. The sketches' estimates are compared with the exact scores here too, on the
    study's own questions.
    """
    strongest = _strongest(work)
    sequences = _sequences(work, strongest)
    runner = passes.runner(work.workspace, work.open("language_model"), work.progress, len(strongest))
    queries = read_preconditioned(work.open("query_gradients"), runner.device)
    tokenization = Tokenization.load(work.open("language_model").path("tokenizer"))
    layers, tokens = [pl.DataFrame(schema=LAYER_SCHEMA)], [pl.DataFrame(schema=TOKEN_SCHEMA)]
    for index, query_id in enumerate(queries.query_ids):
        asked = strongest.filter(pl.col("query_id") == query_id)["sequence_id"]
        if not len(asked):
            continue
        rows = sequences.take(np.flatnonzero(np.isin(sequences.keys, asked.to_numpy())))
        P = {name: layer[index : index + 1] for name, layer in queries.layers.items()}
        details = score_details(runner, rows, P, queries.N)
        layers.append(_layer_rows(details.by_layer[0], rows, [linear.name for linear in runner.modules]))
        tokens.append(_token_rows(details.by_token[0], rows, tokenization))
        layers[-1], tokens[-1] = (_labelled(frame, query_id, queries) for frame in (layers[-1], tokens[-1]))
    work.draft.table("layer_influence", pl.concat(frame.select(LAYER_SCHEMA.names()) for frame in layers))
    work.draft.table("token_influence", pl.concat(frame.select(TOKEN_SCHEMA.names()) for frame in tokens))
    work.draft.summarise(
        queries=len(queries.query_ids),
        split_scores=len(strongest),
        generation_id=queries.generation_id,
        sketch_agreement=_sketch_agreement(work, runner, queries),
    )


def _strongest(work: Work) -> pl.DataFrame:
    """query_id and sequence_id of each query's highest and lowest scores over all shards."""
    count = work.study.scores.details_per_query
    scores = pl.concat(a.table("influence_scores") for a in work.open_all("influence_scores"))
    rank = pl.col("influence_nats").rank("ordinal").over("query_id")
    size = pl.len().over("query_id")
    return scores.filter((rank <= count) | (rank > size - count)).select("query_id", "sequence_id").collect()


def _sequences(work: Work, strongest: pl.DataFrame) -> Sequences:
    """The sequences named, each once, gathered from their shards."""
    wanted = strongest["sequence_id"].unique().to_numpy()
    parts = []
    for artifact in work.open_all("token_sequences"):
        shard = passes.shard_sequences(artifact)
        parts.append(shard.take(np.flatnonzero(np.isin(shard.keys, wanted))))
    tokens, lengths, keys = (
        np.concatenate([getattr(part, n) for part in parts]) for n in ("tokens", "lengths", "keys")
    )
    return Sequences(tokens, lengths, keys)


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


def _sketch_agreement(work: Work, runner: Runner, queries: Preconditioned) -> dict[str, float | int] | None:
    """Exact scores against the sketches' estimates, over the shards until enough sequences are compared."""
    layers = layer_curvatures(work, runner)
    coordinates = strongest_coordinates(layers, work.study.sketches.coordinates)
    questions = query_sketches(unconditioned(queries.layers, layers), layers, coordinates, queries.N)
    scores = {artifact.manifest.key.partition: artifact for artifact in work.open_all("influence_scores")}
    exact, estimated, compared = [], [], 0
    for sketched, packed in zip(work.open_all("gradient_sketches"), work.open_all("token_sequences"), strict=True):
        if compared >= COMPARED_SEQUENCES:
            break
        keys = passes.shard_sequences(packed).keys
        pair = replace(work.partition, shard=sketched.key.partition).key
        table = scores[pair].table("influence_scores").collect()
        exact.append(_matrix(table, queries.query_ids, keys))
        estimated += [estimate(questions, codes) for codes in read_codes(sketched)]
        compared += len(keys)
    found = agreement(np.concatenate(exact, axis=1), np.concatenate(estimated, axis=1))
    return None if found is None else found.rounded()


def _matrix(scores: pl.DataFrame, query_ids: list[str], keys: np.ndarray) -> np.ndarray:
    """[query, sequence] in the order given."""
    order = pl.DataFrame({"query_id": query_ids}).join(pl.DataFrame({"sequence_id": keys}), how="cross")
    joined = order.join(scores, on=["query_id", "sequence_id"], how="left", maintain_order="left")
    return joined["influence_nats"].to_numpy().reshape(len(query_ids), len(keys))
