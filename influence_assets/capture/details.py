"""The split of scores over layers and tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.runner import Runner
from influence_assets.maths.influence import token_scores
from influence_assets.models.layers.rule import AttributedLayer


@dataclass(frozen=True)
class Details:
    """Scores split over layers and over input tokens.

    Args:
        by_layer: float64 [query, sequence, layer], layers in the order of the runner's modules.
        by_token: float64 [query, sequence, token], summed over layers; 0 at padding.
    """

    by_layer: np.ndarray
    by_token: np.ndarray


def score_details(runner: Runner, sequences: Sequences, P: Mapping[str, Tensor], N: int) -> Details:
    """Return the split of each score over layers and over tokens; either one sums to the score."""
    order = {linear.name: index for index, linear in enumerate(runner.modules)}
    queries = len(next(iter(P.values())))
    P = runner.placed(P)
    by_layer = np.zeros((queries, len(sequences), len(order)))
    by_token = np.zeros((queries, *sequences.tokens.shape))

    def consumer(batch: Batch) -> Consumer:
        def consume(linear: AttributedLayer, a: Tensor, Ds: Tensor) -> None:
            parts = token_scores(P[linear.name], Ds, a, N).cpu().double().numpy()
            by_layer[:, batch.rows, order[linear.name]] = parts.sum(-1)
            by_token[:, batch.rows, : parts.shape[-1]] += parts

        return consume

    runner.run(sequences, consumer)
    return Details(by_layer, by_token)
