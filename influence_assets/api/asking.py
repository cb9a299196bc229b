"""Answers a new question: its passages are found by their stored sketches; those that are shown are scored exactly."""

from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import polars as pl
from torch import Tensor

from influence_assets.analysis.noise import noise_of
from influence_assets.api.answer import Answer
from influence_assets.api.cautions import cautions
from influence_assets.api.passages import Scored, passages, stored, trained_documents
from influence_assets.capture.details import Pairs, score_details
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.sign_codes import estimate
from influence_assets.capture.sketches import query_sketches
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.errors import InputError, StorageError
from influence_assets.layouts import factors
from influence_assets.layouts.model import runner as load_runner
from influence_assets.layouts.queries import as_sequences, tokenize
from influence_assets.layouts.sequences import shard_sequences
from influence_assets.layouts.sketches import KeptCoordinates, UnknownCoordinatesError, read_codes
from influence_assets.storage.artifacts import Artifact

_Ranked = list[tuple[float, str, int]]


def ask(versions: Versions, prompt: str, completion: str, top: int, *, unseen: bool = False) -> Answer:
    """Return the training sequences that raise this completion's probability most.

    They are found by estimates from sketches; those that are returned are then scored exactly, and ranked by that.

    Args:
        versions: the study's versions.
        prompt: what the model is given; may be empty.
        completion: what it said.
        top: the largest number of passages.
        unseen: also return passages with documents that the study's own model was not trained on.

    Raises:
        StorageError: the curvature or all sketches are missing or out of date.
        InputError: the completion is empty, the question has more tokens than the model's context, or the study
            keeps no eigenvectors to sketch by.
    """
    workspace = versions.workspace
    if workspace.study.curvature.rank == 0:
        raise InputError("curvature.rank", "is 0, so that sketches keep nothing to search by", "Set a higher one.")
    model, bases, curvature = (stored(versions, name) for name in ("language_model", "eigenbases", "curvature"))
    (asked,) = tokenize(model, workspace, [prompt], [completion], ["the question"])
    runner = load_runner(workspace, model, lambda _done, _total: None)
    layers = factors.curvature_on(runner, bases, curvature)
    gradients = query_gradients(runner, as_sequences([asked]), factors.bases_of(layers))
    N = int(curvature.manifest.summary["training_sequences"])
    kept = KeptCoordinates(layers, curvature, workspace.study.sketches.coordinates)
    sketched = _sketches(versions, kept)
    if not sketched:
        raise StorageError("No shard is sketched yet. Bring everything up to date with `influence run`.")
    # One for each set of coordinates: all shards of a generation keep the same, unless it was computed again.
    questions: dict[int, np.ndarray] = {}
    estimates: dict[str, np.ndarray] = {}
    for shard, artifact in sketched.items():
        coordinates = kept.of(artifact)
        if id(coordinates) not in questions:
            questions[id(coordinates)] = query_sketches(gradients.layers, layers, coordinates, N)
        question = questions[id(coordinates)]
        estimates[shard] = np.concatenate([estimate(question, codes)[0] for codes in read_codes(artifact)])
    noise = noise_of(np.concatenate(list(estimates.values())).astype(np.float64))
    trained = trained_documents(model)
    left_out = 0 if unseen or trained is None else _leave_out(versions, estimates, trained)
    P = {name: layer.precondition(gradients.layers[name]) for name, layer in layers.items()}
    P = {name: layer.basis.rotate_back(P[name]) for name, layer in layers.items()}
    scored = _scored_exactly(versions, runner, _ranked(estimates, top), P, N)
    return Answer(
        prompt,
        completion,
        float(gradients.log_probabilities[0]),
        len(asked.tokens) - asked.completion_start,
        passages(versions, scored, trained),
        sum(map(len, estimates.values())),
        left_out,
        [shard for shard in workspace.shards if shard not in sketched],
        _agreement(list(sketched.values())),
        cautions(workspace.catalogue),
        noise,
        is_estimated=True,
    )


def _sketches(versions: Versions, kept: KeptCoordinates) -> dict[str, Artifact]:
    """Return the sketches that are up to date, by shard.

    Those of which it is not known what they keep are marked, so that the next run computes them again.
    """
    asset = versions.workspace.graph["gradient_sketches"]
    keys = {shard: versions.key(asset, Partition(shard=shard)) for shard in versions.workspace.shards}
    store = versions.workspace.store
    sketched = {}
    for shard, key in keys.items():
        if key is None or not store.holds(key):
            continue
        artifact = store.open(key)
        try:
            kept.of(artifact)
        except UnknownCoordinatesError as error:
            with suppress(StorageError):
                store.mark_damaged(error.folder, error.files, error.problem)
        else:
            sketched[shard] = artifact
    return sketched


def _leave_out(versions: Versions, estimates: Mapping[str, np.ndarray], trained: frozenset[str]) -> int:
    """Put sequences with a document that the model was not trained on behind all others; return how many those are."""
    left_out: set[str] = set()
    for shard, scores in estimates.items():
        tokens = stored(versions, "token_sequences", shard)
        order = tokens.table("sequences").select("sequence_id", "sequence_index")
        unseen = (
            tokens.table("sequence_documents")
            .filter(~pl.col("document_id").is_in(list(trained)))
            .join(order, on="sequence_id")
            .select("document_id", "sequence_index")
            .collect()
        )
        left_out.update(unseen["document_id"])
        scores[unseen["sequence_index"].to_numpy()] = -np.inf
    return len(left_out)


def _ranked(estimates: Mapping[str, np.ndarray], top: int) -> _Ranked:
    """Return the highest estimates with their shard and row."""
    ranked = [
        (float(scores[index]), shard, int(index))
        for shard, scores in estimates.items()
        for index in np.argsort(-scores, kind="stable")[:top]
        if scores[index] > -np.inf
    ]
    return sorted(ranked, key=lambda entry: (-entry[0], entry[1], entry[2]))[:top]


def _scored_exactly(
    versions: Versions, runner: Runner, ranked: _Ranked, P: Mapping[str, Tensor], N: int
) -> list[Scored]:
    """Return these sequences with their exact scores, the highest first."""
    scored = []
    for shard in dict.fromkeys(shard for _, shard, _ in ranked):
        rows = np.array(sorted(index for _, of, index in ranked if of == shard))
        sequences = shard_sequences(stored(versions, "token_sequences", shard)).take(rows)
        by_token = score_details(runner, sequences, P, N, Pairs.every(1, len(sequences))).by_token
        scored += [
            Scored(shard, int(row), float(split.sum()), by_token=split)
            for row, split in zip(rows, by_token, strict=True)
        ]
    return sorted(scored, key=lambda each: (-each.influence_nats, each.shard_id, each.sequence_index))


def _agreement(sketches: list[Artifact]) -> float | None:
    measured = [a.manifest.summary.get("agreement") for a in sketches]
    values = [float(m["pearson"]) for m in measured if isinstance(m, dict)]
    return float(np.mean(values)) if values else None
