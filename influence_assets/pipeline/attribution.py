"""The steps of the group `attribution` for a shard: sketches, and scores for a query set."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import torch
from torch import Tensor

from influence_assets.analysis.agreement import agreement
from influence_assets.capture.batches import Sequences
from influence_assets.capture.gradients import query_gradients as measure_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import scored
from influence_assets.capture.sign_codes import SignCodes, encode, estimate
from influence_assets.capture.sketches import WhitenedBatch, query_sketches
from influence_assets.capture.sketches import sketches as measure_sketches
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.sketches import strongest_coordinates
from influence_assets.methods.ekfac import EKFAC
from influence_assets.pipeline import factors, passes
from influence_assets.pipeline.queries import Preconditioned, bases_of
from influence_assets.pipeline.steps import Work
from influence_assets.storage.artifacts import Artifact

PROBES = 4
"""Sequences of a shard whose exact scores for the whole shard the sketches are measured against."""


def gradient_sketches(work: Work) -> None:
    """The signs of each sequence's whitened gradient where most of its expected energy is.

    Their inner product with a query's gradient estimates its score, so that new questions need no pass over the corpus.
    How well they agree with exact scores is measured with a few of the shard's own sequences taken as questions.
    """
    sequences = passes.shard_sequences(work.open("token_sequences"))
    runner = passes.runner(work.workspace, work.open("language_model"), work.progress, len(sequences))
    layers = layer_curvatures(work, runner)
    recorder = SketchRecorder(work, runner, sequences, layers)
    for batch in measure_sketches(runner, sequences, layers, recorder.coordinates, recorder.probes):
        recorder.add(batch)
    recorder.finish()


class SketchRecorder:
    """Encodes whitened gradients into the draft of `gradient_sketches`, and compares them with exact scores.

    Args:
        work: of the step.
        runner: the model.
        sequences: of the shard; a few of them are the questions.
        layers: the generation's curvature.
    """

    def __init__(self, work: Work, runner: Runner, sequences: Sequences, layers: dict[str, LayerCurvature]) -> None:
        self._work = work
        self._sequences = len(sequences)
        self.coordinates = strongest_coordinates(layers, work.study.sketches.coordinates)
        self._asked = np.unique(np.linspace(0, len(sequences) - 1, PROBES).astype(int))
        quiet = Runner(runner.model, runner.modules, runner.batch_sequences)
        gradients = measure_gradients(quiet, sequences.take(self._asked), bases_of(layers)).layers
        self._questions = query_sketches(gradients, layers, self.coordinates, 1)
        self.probes = EKFAC(layers).precondition(gradients)
        row_bytes = -(-self.coordinates.width // 8)
        self._signs = work.draft.mappable_array("signs", (len(sequences), row_bytes), "uint8")
        self._scales: list[np.ndarray] = []
        self._exact: list[np.ndarray] = []
        self._estimated: list[np.ndarray] = []

    def add(self, batch: WhitenedBatch) -> None:
        """Encode the next sequences."""
        codes = encode(batch.rows, batch.squared_norms)
        self._signs.append(codes.signs)
        self._scales.append(codes.scales)
        self._exact.append(batch.exact)
        self._estimated.append(estimate(self._questions, codes))

    def finish(self) -> None:
        """Say what was kept and how well it agrees."""
        self._work.draft.array("scales", np.concatenate(self._scales))
        truth = np.concatenate(self._exact, axis=1)
        # A sequence's score for itself stands out and would flatter.
        truth[np.arange(len(self._asked)), self._asked] = np.nan
        found = agreement(truth, np.concatenate(self._estimated, axis=1))
        summary = self._work.open("curvature").manifest.summary
        self._work.draft.summarise(
            sequences=self._sequences,
            coordinates=self.coordinates.width,
            expected_energy=round(self.coordinates.energy, 4),
            generation_id=summary["generation_id"],
            training_sequences=summary["training_sequences"],
            agreement=None if found is None else found.rounded(),
        )


def influence_scores(work: Work) -> None:
    """One exact score for each query of the set and each sequence of the shard, in nats per added copy.

    Positive: adding the sequence once more to the training set would raise the completion's log-probability.
    """
    sequences = passes.shard_sequences(work.open("token_sequences"))
    runner = passes.runner(work.workspace, work.open("language_model"), work.progress, len(sequences))
    queries, bases = Preconditioned(work.open("query_gradients"), runner.device), eigenbases_of(work, runner)
    parts = []
    for rows in queries.chunks():
        found = scored(runner, sequences, methods_of(work, queries, rows), queries.N, bases)
        work.draft.summarise(rotated=found.contractions())
        parts.append(found.totals())
    together = {method: np.concatenate([part[method] for part in parts]) for method in parts[0]}
    record_scores(work, queries, sequences.keys, together)


def methods_of(work: Work, queries: Preconditioned, rows: slice) -> dict[str, dict[str, Tensor]]:
    """What the scores of some queries are computed with by each method."""
    methods = {"ekfac": queries.layers(rows)}
    for baseline in work.study.scores.baselines:
        methods[baseline] = queries.layers(rows, "gradient")
    return methods


def record_scores(work: Work, queries: Preconditioned, keys: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """The scores of each method, [query, sequence], into the draft of `influence_scores`."""
    exact = _table(found["ekfac"], queries.query_ids, keys, queries.generation_id)
    exact = exact.rename({"score": "influence_nats"}).sort("query_id", "influence_nats", descending=[False, True])
    work.draft.table("influence_scores", exact)
    baselines = [
        _table(scores, queries.query_ids, keys, queries.generation_id).with_columns(method=pl.lit(method))
        for method, scores in found.items()
        if method != "ekfac"
    ]
    if baselines:
        work.draft.table("baseline_scores", pl.concat(baselines))
    influences = exact["influence_nats"]
    work.draft.summarise(
        scores=exact.height,
        queries=len(queries.query_ids),
        sequences=len(keys),
        generation_id=queries.generation_id,
        largest_nats=influences.max(),
        smallest_nats=influences.min(),
        positive_share=round(int((influences > 0).sum()) / max(1, len(influences)), 4),
    )


def eigenbases_of(work: Work, runner: Runner) -> dict[str, Eigenbasis]:
    """The generation's eigenbases on the runner's device, in the dtype that sums are kept in."""
    dtype = torch.promote_types(runner.dtype, torch.float32)
    frozen = work.open("eigenbases")
    return {layer: factors.read_basis(frozen, layer).to(runner.device, dtype) for layer in factors.layers_of(frozen)}


def layer_curvatures(work: Work, runner: Runner) -> dict[str, LayerCurvature]:
    """The generation's curvature on the runner's device, in the dtype that sums are kept in."""
    dtype = torch.promote_types(runner.dtype, torch.float32)
    return factors.read_curvature(work.open("eigenbases"), work.open("curvature"), runner.device, dtype)


def _table(scores: np.ndarray, query_ids: list[str], keys: np.ndarray, generation_id: int) -> pl.DataFrame:
    """One row for each score of [query, sequence]."""
    pairs = pl.DataFrame({"query_id": query_ids}).join(
        pl.DataFrame({"sequence_id": keys}), how="cross", maintain_order="left_right"
    )
    generation = pl.lit(generation_id, pl.Int32).alias("generation_id")
    return pairs.with_columns(generation, pl.Series("score", scores.reshape(-1)))


def read_codes(sketches: Artifact) -> Iterator[SignCodes]:
    """What `gradient_sketches` wrote, block by block from the mapped file."""
    scales = sketches.array("scales")
    for block in sketches.mapped("signs").blocks():
        yield SignCodes(block.rows, scales[block.start : block.stop])
