"""Whether two subjects computed the same thing: checked before anything is called faster."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.stats import pearsonr, spearmanr

THRESHOLD = 0.999
"""Of both correlations, in float32 and for exact scores."""


@dataclass(frozen=True)
class Agreement:
    """Of ours with a peer's.

    Args:
        pearson: over all numbers of the stage.
        spearman: of scores: mean over queries of the rank correlation; None of factors, most of whose numbers may be
            zero but for rounding, in no order.
        largest_difference: relative to the largest number of the peer's, after scores are brought to one scale.
    """

    pearson: float
    spearman: float | None
    largest_difference: float

    @property
    def value(self) -> float:
        """The smallest of the correlations."""
        return self.pearson if self.spearman is None else min(self.pearson, self.spearman)


def of_scores(ours: Path, theirs: Path, training_sequences: int) -> Agreement | None:
    """Agreement of two files of scores [query, sequence]; kronfluence's are not divided by N, ours are."""
    if not (ours.exists() and theirs.exists()):
        return None
    a, b = np.load(ours).astype(np.float64) * training_sequences, np.load(theirs).astype(np.float64)
    ranks = [spearmanr(row, other).statistic for row, other in zip(a, b, strict=True)]
    return Agreement(float(pearsonr(a.ravel(), b.ravel()).statistic), float(np.mean(ranks)), _difference(a, b))


def of_factors(stage: str, ours: Path, theirs: Path) -> Agreement | None:
    """Agreement of what a stage stored: of A and S, their eigenvalues, or Λ, each as a mean."""
    folder = ours / stage
    place = theirs / "bench" / "factors_f"
    if not (folder.exists() and place.exists()):
        return None
    pairs = PAIRS[stage]({file.stem: np.load(file) for file in folder.iterdir()}, place)
    a, b = (np.concatenate([side.ravel().astype(np.float64) for side in sides]) for sides in zip(*pairs, strict=True))
    return Agreement(float(pearsonr(a, b).statistic), None, _difference(a, b))


Numbers = dict[str, np.ndarray]


def _covariances(ours: Numbers, place: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = []
    for letter, kind in {"A": "activation", "S": "gradient"}.items():
        theirs = load_file(place / f"{kind}_covariance.safetensors")
        counts = load_file(place / f"num_{kind}_covariance_processed.safetensors")
        for name, total in theirs.items():
            pairs.append((ours[f"{name}.{letter}"] / ours["count"], total / counts[name]))
    return pairs


def _eigenvalues(ours: Numbers, place: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = []
    for letter, kind in {"A": "activation", "S": "gradient"}.items():
        theirs = load_file(place / f"{kind}_eigenvalues.safetensors")
        pairs += [(ours[f"{name}.eigenvalues_{letter}"], values) for name, values in theirs.items()]
    return pairs


def _corrections(ours: Numbers, place: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    theirs = load_file(place / "lambda_matrix.safetensors")
    counts = load_file(place / "num_lambda_processed.safetensors")
    return [(ours[name] / ours["count"], total / counts[name]) for name, total in theirs.items()]


PAIRS = {"covariances": _covariances, "eigendecomposition": _eigenvalues, "corrected_eigenvalues": _corrections}


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())
