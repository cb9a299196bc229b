"""The split of scores over layers and tokens, for chosen pairs of query and sequence."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer
from influence_assets.capture.runner import Runner
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.models.layers.rule import AttributedLayer


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and a sequence, by their rows.

    Args:
        queries: int64 [pair]: the row in P.
        sequences: int64 [pair]: the row in the sequences.
    """

    queries: npt.NDArray[np.int64]
    sequences: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def every(cls, queries: int, sequences: int) -> "Pairs":
        """Return every pair of this number of queries and sequences, those of one query after those of another."""
        return cls(np.repeat(np.arange(queries), sequences), np.tile(np.arange(sequences), queries))


@dataclass(frozen=True)
class Details:
    """Scores split over layers and over input tokens.

    Args:
        by_layer: float64 [pair, layer], layers in the order of the runner's modules.
        by_token: float64 [pair, token], summed over layers; 0 at padding.
    """

    by_layer: np.ndarray
    by_token: np.ndarray


def score_details(runner: Runner, sequences: Sequences, P: Mapping[str, Tensor], N: int, pairs: Pairs) -> Details:
    """Return the split of each pair's score over layers and over tokens; either one sums to the score.

    Each sequence goes through the model once, for all queries that it is paired with.

    Args:
        runner: runs the model.
        sequences: the sequences, of which each has a pair.
        P: each layer's preconditioned query gradients [query, d_out, d_in], in the model's coordinates.
        N: training sequences of the generation.
        pairs: the pairs.
    """
    order = {linear.name: index for index, linear in enumerate(runner.modules)}
    P = runner.placed(P)
    by_layer = np.zeros((len(pairs), len(order)))
    by_token = np.zeros((len(pairs), sequences.tokens.shape[1]))

    def consumer(batch: Batch) -> Consumer:
        own, place = _pairs_of(pairs, batch)

        def consume(linear: AttributedLayer, terms: GradientTerms) -> None:
            if not len(own):
                return
            of_pairs = [
                terms.token_scores(P[linear.name][query], row, N)
                for query, row in zip(pairs.queries[own].tolist(), place.tolist(), strict=True)
            ]
            parts = torch.stack(of_pairs).cpu().double().numpy()
            by_layer[own, order[linear.name]] = parts.sum(-1)
            by_token[own, : parts.shape[-1]] += parts

        return consume

    runner.run(sequences, consumer)
    return Details(by_layer, by_token)


def _pairs_of(pairs: Pairs, batch: Batch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the pairs whose sequence is in a batch, and its row in the batch for each of them."""
    by_row = np.argsort(batch.rows)
    place = np.searchsorted(batch.rows, pairs.sequences, sorter=by_row)
    rows = by_row[np.minimum(place, len(by_row) - 1)]
    own = np.flatnonzero(batch.rows[rows] == pairs.sequences)
    return own, rows[own]
