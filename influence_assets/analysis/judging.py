"""How far scores are borne out by retraining: linear datamodeling score, its ceiling, calibration, and intervals.

A model is trained again on each of many subsets of the corpus, with several seeds. Scores predict each query's outcome
by their sum over the subset: the linear datamodeling score is the rank correlation of predicted and measured outcomes
over subsets, averaged over queries (Park et al. 2023, TRAK, Definition 2.2). Seeds are averaged first.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.95

CEILING = "retraining"
"""The name under which the ceiling stands, as if it were a method."""


class Interval(NamedTuple):
    """A figure with its bootstrap interval at `LEVEL`."""

    value: float
    low: float
    high: float


def rank_correlations(
    x: Float[np.ndarray, "query subset"], y: Float[np.ndarray, "query subset"]
) -> Float[np.ndarray, " query"]:
    """Return Spearman's rank correlation of each row of x with that of y; 0 where a row is constant."""
    return _correlations(_ranks(x), _ranks(y))


def _ranks(x: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata  # takes longer to import than everything else that commands need

    return np.asarray(rankdata(x, axis=-1))


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    norms = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    correlations: np.ndarray = np.divide((x * y).sum(-1), norms, out=np.zeros(norms.shape), where=norms > 0)
    return correlations


def agreement_of_seeds(outcomes: Float[np.ndarray, "seed query subset"]) -> float:
    """Return r, the rank correlation between two seeds' outcomes, averaged over queries and pairs; negatives as 0."""
    ranks = _ranks(outcomes)
    return _agreement(ranks)


def _agreement(ranks: np.ndarray) -> float:
    pairs = [(a, b) for a in range(len(ranks)) for b in range(a)]
    return max(0.0, float(np.mean([_correlations(ranks[a], ranks[b]).mean() for a, b in pairs])))


def ceiling(agreement: float, seeds: int) -> float:
    """Return √(k r / (1 + (k − 1) r)), the correlation that perfect predictions have with the mean over k seeds.

    This is the square root of the reliability of the mean, by the formula of Spearman and Brown (1910).

    Args:
        agreement: r, between single seeds.
        seeds: k.
    """
    return float(np.sqrt(seeds * agreement / (1 + (seeds - 1) * agreement)))


class Line(NamedTuple):
    """The least-squares line of measured on predicted outcomes, for each query.

    Args:
        slope: 1 if predictions have the right size; NaN where all predictions are equal.
        r_squared: the share of the measured outcomes' variance that predictions explain *as they are*, but for a
            constant: 1 − Σ (m − p − mean(m − p))² / Σ (m − mean m)². Below 0 they are worse than none.
    """

    slope: Float[np.ndarray, " query"]
    r_squared: Float[np.ndarray, " query"]


def calibration(predicted: Float[np.ndarray, "query subset"], measured: Float[np.ndarray, "query subset"]) -> Line:
    """Return how the sizes of predicted outcomes compare with measured ones."""
    p = predicted - predicted.mean(-1, keepdims=True)
    m = measured - measured.mean(-1, keepdims=True)
    of_p, of_m = (p * p).sum(-1), (m * m).sum(-1)
    nothing = np.full(of_p.shape, np.nan)
    slope = np.divide((p * m).sum(-1), of_p, out=nothing.copy(), where=of_p > 0)
    left = np.divide(((m - p) ** 2).sum(-1), of_m, out=nothing.copy(), where=of_m > 0)
    return Line(slope, 1 - left)


@dataclass(frozen=True)
class Board:
    """The scores of several methods, judged by the same retrained models.

    Args:
        scores: the linear datamodeling score of each method.
        by_query: the rank correlation of each query, for each method.
        ceiling: what perfect predictions would have; None with one seed.
        ratios: the score of each method over that of the reference, from the same resamples; NaN where the latter is 0.
    """

    scores: Mapping[str, Interval]
    by_query: Mapping[str, Float[np.ndarray, " query"]]
    ceiling: Interval | None
    ratios: Mapping[str, Interval]


def judge(
    predicted: Mapping[str, Float[np.ndarray, "query subset"]],
    outcomes: Float[np.ndarray, "seed query subset"],
    *,
    reference: str,
    resamples: int = 1000,
    seed: int = 0,
) -> Board:
    """Return the linear datamodeling score of each method, with bootstrap intervals over queries and subsets.

    All methods are judged on the same resamples, so that their ratios are paired.

    Args:
        predicted: for each method the sum of its scores over each subset.
        outcomes: the log-probabilities under the retrained models.
        reference: the method that ratios are relative to.
        resamples: draws of the bootstrap.
        seed: of these draws.
    """
    seeds, queries, subsets = outcomes.shape
    measured = outcomes.mean(0)
    by_query = {name: rank_correlations(values, measured) for name, values in predicted.items()}
    drawn: dict[str, list[float]] = {name: [] for name in predicted}
    ceilings: list[float] = []
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        rows, columns = generator.integers(0, queries, queries), generator.integers(0, subsets, subsets)
        ranks = _ranks(measured[:, columns])
        for name, values in predicted.items():
            drawn[name].append(float(_correlations(_ranks(values[:, columns]), ranks)[rows].mean()))
        if seeds > 1:
            ceilings.append(ceiling(_agreement(_ranks(outcomes[:, :, columns])[:, rows]), seeds))
    scores = {name: _interval(float(by_query[name].mean()), drawn[name]) for name in predicted}
    of_reference = scores[reference].value, np.array(drawn[reference])
    ratios = {name: _ratio((scores[name].value, np.array(drawn[name])), of_reference) for name in predicted}
    highest = None
    if seeds > 1:
        highest = _interval(ceiling(agreement_of_seeds(outcomes), seeds), ceilings)
    return Board(scores, by_query, highest, ratios)


class Figure(NamedTuple):
    """One figure of one method, such as its slope."""

    method: str
    figure: str
    interval: Interval


def figures(
    board: Board,
    predicted: Mapping[str, Float[np.ndarray, "query subset"]],
    measured: Float[np.ndarray, "query subset"],
    in_nats: Collection[str],
) -> Iterator[Figure]:
    """Yield all figures of a board: `lds` and `lds_ratio`, the ceiling's `lds`, and of some methods their calibration.

    Args:
        board: the judged methods.
        predicted: the sums that were judged.
        measured: the log-probabilities, averaged over seeds.
        in_nats: the methods whose scores are in nats, so that `slope` and `r_squared` mean something.
    """
    if board.ceiling is not None:
        yield Figure(CEILING, "lds", board.ceiling)
    for name, values in predicted.items():
        yield Figure(name, "lds", board.scores[name])
        yield Figure(name, "lds_ratio", board.ratios[name])
        if name in in_nats:
            line = calibration(values, measured)
            yield Figure(name, "slope", median_interval(line.slope))
            yield Figure(name, "r_squared", median_interval(line.r_squared))


def _ratio(of_method: tuple[float, np.ndarray], of_reference: tuple[float, np.ndarray]) -> Interval:
    """Return the ratio of two scores; NaN if the reference's is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value, drawn = float(np.divide(of_method[0], of_reference[0])), of_method[1] / of_reference[1]
    return _interval(value, drawn) if np.isfinite(drawn).all() else Interval(value, np.nan, np.nan)


def _interval(value: float, drawn: "list[float] | np.ndarray") -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def median_interval(values: Float[np.ndarray, " query"], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the median over queries with its bootstrap interval; NaN is left out."""
    known = values[~np.isnan(values)]
    if not known.size:
        return Interval(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(seed).choice(known, (resamples, known.size))
    return _interval(float(np.median(known)), np.median(drawn, axis=1))


def paired_means(
    values: Mapping[str, Float[np.ndarray, " query"]], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Return the mean over queries of each method's figure, with bootstrap intervals from the same resamples."""
    count = len(next(iter(values.values())))
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    return {name: _interval(float(of.mean()), of[drawn].mean(axis=1)) for name, of in values.items()}
