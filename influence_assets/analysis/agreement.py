"""How well estimated scores agree with exact ones."""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import pearsonr, spearmanr

TOP = 10


@dataclass(frozen=True)
class Agreement:
    """Means over queries.

    Args:
        pearson: linear correlation, -1 to 1.
        spearman: rank correlation, -1 to 1.
        slope: of estimated on exact scores; 1 where both have the same scale.
        top10_recall: share of the exact ten strongest that are among the estimated ten strongest, 0 to 1.
        queries: queries that were compared.
        sequences: scores of each.
    """

    pearson: float
    spearman: float
    slope: float
    top10_recall: float
    queries: int
    sequences: int

    def rounded(self) -> dict[str, float | int]:
        """As it is shown."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def agreement(exact: np.ndarray, estimated: np.ndarray) -> Agreement | None:
    """Compare [query, sequence] scores, skipping NaN in `exact`; None where there are too few to correlate."""
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
    best, found = (set(np.argsort(-scores)[:count].tolist()) for scores in (truth, guess))
    return len(best & found) / count
