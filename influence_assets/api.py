"""The interface for other programs: answers a new question from stored sketches, without a pass over the corpus."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.sign_codes import estimate
from influence_assets.capture.sketches import query_sketches
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.errors import StorageError
from influence_assets.layouts import factors
from influence_assets.layouts.model import runner as load_runner
from influence_assets.layouts.queries import as_sequences, tokenize
from influence_assets.layouts.sketches import read_codes
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.storage.artifacts import Artifact

DOCUMENT_COLUMNS = ("document_id", "title", "source", "licence", "external_id")


@dataclass(frozen=True)
class Passage:
    """A training sequence in an answer.

    Args:
        influence_nats: the estimate of its score.
        shard_id: the shard that it is in.
        sequence_index: its number in the shard, from 0.
        sequence_id: its id in SQL.
        text: the passage.
        documents: `document_id`, `title`, `source`, `licence`, `external_id` of each document in it.
    """

    influence_nats: float
    shard_id: str
    sequence_index: int
    sequence_id: int
    text: str
    documents: list[dict[str, str | None]]


@dataclass(frozen=True)
class Answer:
    """The passages behind a completion.

    Args:
        log_probability_nats: the log-probability of the completion given the prompt.
        completion_tokens: the number of tokens in the completion.
        passages: the passages, the strongest first.
        sequences: the number of training sequences that were compared.
        unsketched_shards: shards that were not compared because their sketches are missing or out of date.
        agreement: the mean Pearson correlation of sketches with exact scores, measured when they were computed, if
            known.
    """

    log_probability_nats: float
    completion_tokens: int
    passages: list[Passage]
    sequences: int
    unsketched_shards: list[str]
    agreement: float | None


def ask(versions: Versions, prompt: str, completion: str, top: int) -> Answer:
    """Return the training sequences that raise this completion's probability most, as estimated from sketches.

    Raises:
        StorageError: the curvature or all sketches are missing or out of date.
        InputError: the completion is empty, or the question has more tokens than the model's context.
    """
    workspace = versions.workspace
    model, bases, curvature = (_current(versions, name) for name in ("language_model", "eigenbases", "curvature"))
    (query,) = tokenize(model, workspace.study, [prompt], [completion], ["the question"])
    runner = load_runner(workspace, model, lambda _done, _total: None)
    layers = factors.curvature_on(runner, bases, curvature)
    gradients = query_gradients(runner, as_sequences([query]), factors.bases_of(layers))
    coordinates = strongest_coordinates(layers, workspace.study.sketches.coordinates)
    N = int(curvature.manifest.summary["training_sequences"])
    question = query_sketches(gradients.layers, layers, coordinates, N)
    sketched = _sketches(versions)
    if not sketched:
        raise StorageError("No shard is sketched yet. Bring everything up to date with `influence run`.")
    estimates = {
        shard: np.concatenate([estimate(question, codes)[0] for codes in read_codes(artifact)])
        for shard, artifact in sketched.items()
    }
    return Answer(
        float(gradients.log_probabilities[0]),
        len(query.tokens) - query.completion_start,
        _passages(versions, estimates, top),
        sum(map(len, estimates.values())),
        [shard for shard in workspace.shards if shard not in sketched],
        _agreement(list(sketched.values())),
    )


def _current(versions: Versions, name: str) -> Artifact:
    key = versions.key(versions.workspace.graph[name], Partition())
    if key is None or not versions.workspace.store.holds(key):
        raise StorageError(f"{name} is missing or out of date. Bring everything up to date with `influence run`.")
    return versions.workspace.store.open(key)


def _sketches(versions: Versions) -> dict[str, Artifact]:
    """Return the sketches that are up to date, by shard."""
    asset = versions.workspace.graph["gradient_sketches"]
    keys = {shard: versions.key(asset, Partition(shard=shard)) for shard in versions.workspace.shards}
    store = versions.workspace.store
    return {shard: store.open(key) for shard, key in keys.items() if key is not None and store.holds(key)}


def _passages(versions: Versions, estimates: dict[str, np.ndarray], top: int) -> list[Passage]:
    ranked = [
        (float(scores[index]), shard, int(index))
        for shard, scores in estimates.items()
        for index in np.argsort(-scores, kind="stable")[:top]
    ]
    strongest = sorted(ranked, key=lambda entry: (-entry[0], entry[1], entry[2]))[:top]
    described = {
        shard: _described(versions, shard, [i for _, s, i in strongest if s == shard]) for _, shard, _ in strongest
    }
    return [Passage(score, shard, index, *described[shard][index]) for score, shard, index in strongest]


def _described(
    versions: Versions, shard: str, indices: list[int]
) -> dict[int, tuple[int, str, list[dict[str, str | None]]]]:
    """Return sequence_id, text and documents of some sequences of a shard, by their index."""
    stored = {}
    for name in ("token_sequences", "documents"):
        key = versions.key(versions.workspace.graph[name], Partition(shard=shard))
        if key is None:
            raise StorageError(f"{name}[{shard}] is missing. Bring everything up to date with `influence run`.")
        stored[name] = versions.workspace.store.open(key)
    chosen = pl.col("sequence_index").is_in(indices)
    sequences = stored["token_sequences"].table("sequences").filter(chosen).collect()
    spans = (
        stored["token_sequences"].table("sequence_documents")
        .join(sequences.lazy().select("sequence_id"), on="sequence_id", how="semi")
        .group_by("sequence_id", "document_id").agg(tokens=(pl.col("token_end") - pl.col("token_start")).sum())
        .join(stored["documents"].table("documents").select(DOCUMENT_COLUMNS), on="document_id")
        .sort("tokens", descending=True).collect()
    )  # fmt: skip
    described = {}
    for row in sequences.iter_rows(named=True):
        documents = spans.filter(pl.col("sequence_id") == row["sequence_id"]).select(DOCUMENT_COLUMNS).to_dicts()
        described[int(row["sequence_index"])] = (int(row["sequence_id"]), str(row["text"]), documents)
    return described


def _agreement(sketches: list[Artifact]) -> float | None:
    measured = [a.manifest.summary.get("agreement") for a in sketches]
    values = [float(m["pearson"]) for m in measured if isinstance(m, dict)]
    return float(np.mean(values)) if values else None
