"""Exact Shapley values of training points for a K-nearest-neighbours classifier (Jia et al. 2019, Theorem 1).

A set S of training points is worth to a test point the share of K votes that its nearest members cast for the test
point's label:

    v(S) = (1/K) Σ_{k=1}^{min(K,|S|)} 1[y_{α_k(S)} = y],

with α_k(S) the k-th nearest of S. With all N points sorted by distance and δ_i = 1[y_{α_i} = y], the paper's recursion

    s_N = δ_N min(K,N)/(N K),   s_i = s_{i+1} + (δ_i − δ_{i+1})/K · min(K,i)/i

is, with w_i = min(K,i)/(i K), the sum s_i = δ_i w_i + Σ_{j>i} δ_j (w_j − w_{j−1}), which also covers K > N.

**Ties.** Tokens with the same context have the same state. Which of them counts as nearer must not depend on the order
in which they are stored, so v is the mean over all orders of points at equal distance. A point's value is linear in v,
so it is the mean of s over these orders: of m tied points at positions a … b, c of which agree,

    s = δ w̄ + (w_b − w̄)(c − δ)/(m − 1) + Σ_{later ties} (c/m)(w_b − w_{a−1}),   w̄ = (w_a + … + w_b)/m.

Here points are training tokens, labelled by the token that their hidden state predicts, and a test point is a token of
a query's completion. Values sum to v of all points, so those of a query sum to the number of its completion's tokens
that the neighbours vote for. The number of votes is the unit.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from influence_assets.maths.notation import in_float64
from influence_assets.maths.points import QueryPoints, TrainingPoints

_PAIRS_AT_ONCE = 2**21
"""The pairs of test and training point that are sorted at once: 16 MiB in float64, and some 30 times that in all."""

_ROUNDING = 2.0**-40
"""Distances that differ by a smaller share of the squared norms are equal: rounding alone sets them apart."""


def shapley_values(
    distances: Float[Tensor, "test point"],
    agrees: Bool[Tensor, "test point"],
    neighbours: int,
    resolution: Float[Tensor, " test"] | None = None,
) -> Float[Tensor, "test point"]:
    """Return the Shapley value of every training point for every test point, by one sort for each.

    Args:
        distances: of any monotone kind, in float64.
        agrees: whether the training point's label is the test point's.
        neighbours: K, at least 1.
        resolution: for each test point, the largest difference of successive distances that is none; 0 if left out.
    """
    count, points = distances.shape
    if not points:
        return distances.clone()
    sorted_, order = distances.sort(dim=1)
    δ = agrees.gather(1, order).to(distances.dtype)
    i = torch.arange(1, points + 1, dtype=distances.dtype, device=distances.device)
    w = i.clamp(max=neighbours) / (i * neighbours)
    smallest = torch.zeros(count, 1).to(distances) if resolution is None else resolution.to(distances)[:, None]
    is_first = torch.ones_like(agrees)
    is_first[:, 1:] = sorted_.diff(dim=1) > smallest
    a, b = _ends(is_first)
    m = (b - a + 1).to(distances.dtype)
    c = _sums(δ, a, b)
    mean_w = _sums(w.expand(count, -1), a, b) / m
    w_b = w[b]
    among_ties = torch.where(m > 1, (w_b - mean_w) * (c - δ) / (m - 1).clamp(min=1), 0)
    steps = c / m * torch.cat([torch.zeros_like(w[:1]), w.diff()])  # (c/m)(w_j − w_{j−1}), the expected step
    after = torch.zeros(count, points + 1, dtype=distances.dtype, device=distances.device)
    after[:, :-1] = steps.flip(1).cumsum(1).flip(1)
    values = δ * mean_w + among_ties + after.gather(1, b + 1)
    return torch.empty_like(values).scatter_(1, order, values)


def _ends(is_first: Bool[Tensor, "test point"]) -> tuple[Int[Tensor, "test point"], Int[Tensor, "test point"]]:
    """Return the first and the last position of the run that each position belongs to, given where runs begin."""
    points = is_first.shape[1]
    position = torch.arange(points, device=is_first.device).expand_as(is_first)
    first = torch.where(is_first, position, 0).cummax(1).values
    is_last = torch.ones_like(is_first)
    is_last[:, :-1] = is_first[:, 1:]
    last = torch.where(is_last, position, points).flip(1).cummin(1).values.flip(1)
    return first, last


def _sums(values: Float[Tensor, "test point"], first: Tensor, last: Tensor) -> Float[Tensor, "test point"]:
    """Return the sum of values from the first to the last position of each run."""
    before = torch.cat([torch.zeros_like(values[:, :1]), values.cumsum(1)], 1)
    return before.gather(1, last + 1) - before.gather(1, first)


def values_of_parts(training: TrainingPoints, asked: QueryPoints, neighbours: int) -> Float[Tensor, "query part"]:
    """Return the summed values of the tokens of each part for each query's tokens, in votes, in float64.

    What is in memory grows with the number of training tokens, not with that of the queries' tokens, which are taken a
    few at a time; the training states are read again for each few. Distances are Euclidean.

    Args:
        training: the training tokens.
        asked: the tokens of the queries' completions.
        neighbours: K, at least 1.
    """
    states = in_float64(asked.states)
    device = states.device
    labels, parts, queries = training.labels.to(device), training.parts.to(device), asked.queries.to(device)
    of_queries = states.new_zeros(asked.query_count, training.part_count)
    at_once = max(1, _PAIRS_AT_ONCE // max(1, len(training)))
    for start in range(0, len(asked), at_once):
        chosen = slice(start, start + at_once)
        distances, largest = _squared_distances(training, states[chosen])
        agrees = labels == asked.labels[chosen].to(device)[:, None]
        values = shapley_values(distances, agrees, neighbours, resolution=largest * _ROUNDING)
        of_parts = values.new_zeros(len(values), training.part_count).index_add_(1, parts, values)
        of_queries.index_add_(0, queries[chosen], of_parts)
    return of_queries


def _squared_distances(
    training: TrainingPoints, states: Float[Tensor, "test width"]
) -> tuple[Float[Tensor, "test point"], Float[Tensor, " test"]]:
    """Return the squared distances, and for each test point the largest sum of squares that they are differences of."""
    own = states.square().sum(1)
    distances = states.new_empty(len(states), len(training))
    largest, done = own.clone(), 0
    for block in training.states():
        x = in_float64(block.to(states.device))
        squares = x.square().sum(1)
        distances[:, done : done + len(x)] = own[:, None] + squares - 2 * states @ x.T
        largest = torch.maximum(largest, own + squares.max() if len(x) else largest)
        done += len(x)
    if done != len(training):
        raise ValueError(f"there are {len(training)} labels and {done} states")
    return distances, largest
