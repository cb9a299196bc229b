"""Scores summed over checkpoints of training: TracIn (Pruthi et al. 2020, arXiv 2002.08484, TracInCP).

A step of SGD on a batch with T_b tokens that carry a loss, θ ← θ − (η/T_b) Σ_z ∇L(z), changes f to the first order by
−(η/T_b) ⟨∇f, ∇L(z)⟩ for each z in it. Batches have as many tokens of the corpus as they have of its sequences, on
average, so that over a segment of training, in which a checkpoint's gradients stand for those of every step, a sequence
changes f by −(Σ η / T) ⟨∇f, ∇L(z)⟩, with T the tokens of the whole training set.
"""

from collections.abc import Callable, Iterable

import numpy as np

from influence_assets.capture.batches import Parts, Sequences
from influence_assets.capture.gradients import query_gradients
from influence_assets.capture.runner import Runner
from influence_assets.capture.scores import ScoreTotals, score_all

_METHOD = "tracin"


def tracin(
    runner: Runner,
    sequences: Sequences,
    queries: Sequences,
    checkpoints: Iterable[tuple[Callable[[], None], float]],
    tokens: int,
    parts: Parts | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return −Σ_c (η_c / T) ⟨∇f(θ_c), ∇L(z, θ_c)⟩ over the runner's layers, in nats to the first order under SGD.

    Args:
        runner: runs the model.
        sequences: the training sequences that are scored.
        queries: the queries, with the starts of their completions.
        checkpoints: for each checkpoint, gives the runner's model its weights, and the sum of the learning rates of the
            segment that it stands for.
        tokens: T, the tokens of the whole training set that carry a loss.
        parts: the documents of the sequences that have several, if scores are to be split over them.

    Returns:
        float64 [query, sequence], and float64 [query, part] if there are parts.
    """
    totals = ScoreTotals({}, len(sequences), tokens, runner.device, parts)
    totals.include(_METHOD, len(queries), split=parts is not None)
    for load, rates in checkpoints:
        load()
        V = query_gradients(runner, queries).layers
        totals.hold(_METHOD, {name: gradients.mul_(rates) for name, gradients in V.items()})
        score_all(runner, sequences, totals, None)
        totals.release()
    return totals.totals()[_METHOD], None if parts is None else totals.part_totals(_METHOD)
