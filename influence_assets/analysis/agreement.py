"""Measures how well estimated scores agree with exact ones."""

from dataclasses import asdict, dataclass

import numpy as np

TOP = 10


@dataclass(frozen=True)
class Agreement:
    """The agreement of estimated and exact scores, averaged over queries.

    Args:
        pearson: linear correlation, -1 to 1.
        spearman: rank correlation, -1 to 1.
        slope: the slope of a line through estimated against exact scores; 1 if both have the same scale.
        top10_recall: share of the ten strongest exact scores that are among the ten strongest estimates, 0 to 1.
        queries: number of queries that were compared.
        sequences: number of scores of each query.
    """

    pearson: float
    spearman: float
    slope: float
    top10_recall: float
    queries: int
    sequences: int

    def rounded(self) -> dict[str, float | int]:
        """Return the figures rounded to four decimals, for display."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def agreement(exact: np.ndarray, estimated: np.ndarray) -> Agreement | None:
    """Return how well estimates agree with exact scores, both [query, sequence]; NaN in `exact` is ignored.

    Queries with fewer than three scores, or whose scores are all equal, are ignored too; None if no query is left.
    """
    from scipy.stats import pearsonr, spearmanr  # takes longer to import than everything else that commands need

    rows = []
    for truth, guess in zip(exact, estimated, strict=True):
        compared = ~np.isnan(truth)
        truth, guess = truth[compared], guess[compared]
        if len(truth) > 2 and np.ptp(truth) > 0 and np.ptp(guess) > 0:
            pearson, spearman = pearsonr(truth, guess).statistic, spearmanr(truth, guess).statistic
            rows.append((pearson, spearman, pearson * guess.std() / truth.std(), _recall(truth, guess)))
    if not rows:
        return None
    pearson, spearman, slope, recall = (float(value) for value in np.mean(rows, axis=0))
    return Agreement(pearson, spearman, slope, recall, len(rows), exact.shape[1])


def _recall(truth: np.ndarray, guess: np.ndarray) -> float:
    count = min(TOP, len(truth))
    strongest, estimated = (set(np.argsort(-scores)[:count].tolist()) for scores in (truth, guess))
    return len(strongest & estimated) / count
