"""What must hold of an artifact, looked up in what was stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.manifest import ArtifactKey

TOLERANCE = 1e-4
"""Relative rounding of sums in float32."""

ORTHONORMAL = 1e-8
"""Rounding of float64 eigenvectors of wide layers."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        passed: whether it holds.
        figures: what was found, for people.
    """

    passed: bool
    figures: Mapping[str, Any]


Opener = Callable[[ArtifactKey], Artifact]


@dataclass(frozen=True)
class Check:
    """A property of every artifact of an asset.

    Args:
        name: what holds, as a statement.
        description: why it must.
        look: looks it up; the second argument opens the artifact's inputs.
    """

    name: str
    description: str
    look: Callable[[Artifact, Opener], Finding]


def token_counts_agree(artifact: Artifact, _open: Opener) -> Finding:
    """The spans of documents cover every token of the sequences once."""
    counted = int(artifact.table("sequences").select(pl.col("tokens").sum()).collect().item())
    spans = artifact.table("sequence_documents").select((pl.col("token_end") - pl.col("token_start")).sum())
    covered = int(spans.collect().item())
    stored = int(artifact.array("lengths").sum())
    figures = {"tokens_of_sequences": counted, "tokens_of_spans": covered, "tokens_of_arrays": stored}
    return Finding(counted == covered == stored, figures)


def factors_are_finite_and_symmetric(artifact: Artifact, _open: Opener) -> Finding:
    """Every A and S is finite, symmetric, and no larger off its diagonal than the diagonal allows.

    |a_ij| ≤ √(a_ii a_jj) holds for every positive semi-definite matrix. The eigenvalues themselves are checked once a
    generation, where they are computed anyway.
    """
    worst = {"asymmetry": 0.0, "excess_over_the_diagonal": 0.0}
    finite = True
    for name in artifact.array_names():
        M = artifact.array(name).astype(np.float64)
        if not np.isfinite(M).all():
            finite = False
            continue
        size = np.abs(M).max() or 1.0
        bound = np.sqrt(np.outer(*[np.maximum(M.diagonal(), 0)] * 2))
        worst["asymmetry"] = max(worst["asymmetry"], float(np.abs(M - M.T).max() / size))
        excess = float((np.abs(M) - bound).max() / size)
        worst["excess_over_the_diagonal"] = max(worst["excess_over_the_diagonal"], excess)
    return Finding(finite and max(worst.values()) < TOLERANCE, worst | {"finite": finite})


def factors_are_positive_semi_definite(artifact: Artifact, _open: Opener) -> Finding:
    """No merged A or S has a negative eigenvalue, to rounding."""
    worst = 0.0
    for name in artifact.array_names():
        if name.endswith((".eigenvalues_A", ".eigenvalues_S")):
            eigenvalues = artifact.array(name)
            relative = eigenvalues.min() / (eigenvalues.max() or 1.0)
            worst = min(worst, float(np.nan_to_num(relative, nan=-np.inf)))
    return Finding(worst > -TOLERANCE, {"most_negative_relative_eigenvalue": worst})


def bases_are_orthonormal(artifact: Artifact, _open: Opener) -> Finding:
    """QᵀQ = I for both bases of every layer."""
    worst = 0.0
    for name in artifact.array_names():
        if name.endswith((".Q_A", ".Q_S")):
            Q = artifact.array(name)
            deviation = np.nan_to_num(np.abs(Q.T @ Q - np.eye(len(Q))), nan=np.inf)
            worst = max(worst, float(deviation.max()))
    return Finding(worst < ORTHONORMAL, {"largest_deviation": worst})


def eigenvalues_are_finite_and_not_negative(artifact: Artifact, _open: Opener) -> Finding:
    """Every Λ is a mean of squares."""
    smallest = min(
        float(np.nan_to_num(artifact.array(name), nan=-np.inf, posinf=-np.inf).min()) for name in artifact.array_names()
    )
    return Finding(smallest >= 0, {"smallest": smallest})


def every_sequence_is_scored(artifact: Artifact, open_input: Opener) -> Finding:
    """One finite score for each query of the set and each sequence of the shard."""
    inputs = {key.asset: key for key in artifact.manifest.inputs}
    sequences = open_input(inputs["token_sequences"]).manifest.rows["sequences"]
    queries = open_input(inputs["query_gradients"]).manifest.rows["queries"]
    scores = artifact.table("influence_scores")
    found = scores.select(
        pairs=pl.struct("query_id", "sequence_id").n_unique(), finite=pl.col("influence_nats").is_finite().all()
    ).collect()
    pairs, finite = int(found["pairs"][0]), bool(found["finite"][0])
    figures = {"scores": pairs, "expected": queries * sequences, "finite": finite}
    return Finding(finite and pairs == queries * sequences, figures)


def layers_sum_to_the_score(artifact: Artifact, open_input: Opener) -> Finding:
    """The split over layers and the split over tokens both add up to the stored score."""
    keys = [key for key in artifact.manifest.inputs if key.asset == "influence_scores"]
    exact = pl.concat(open_input(key).table("influence_scores") for key in keys).select(
        "query_id", "sequence_id", score="influence_nats"
    )
    pair = ["query_id", "sequence_id"]
    sums = [
        artifact.table(name).group_by(pair).agg(pl.col("influence_nats").sum().alias(name))
        for name in ("layer_influence", "token_influence")
    ]
    joined = sums[0].join(sums[1], on=pair, how="full", coalesce=True).join(exact, on=pair, how="left").collect()
    if joined.is_empty():
        return Finding(passed=True, figures={"scores": 0})
    # Relative to the query's largest: small scores are differences of large parts, which round.
    size = pl.col("score").abs().max().over("query_id")
    # Polars' max passes over NaN.
    off = joined.select(
        pl.max_horizontal(
            ((pl.col(name) - pl.col("score")).abs().fill_nan(float("inf")) / size).max()
            for name in ("layer_influence", "token_influence")
        )
    ).item()
    complete = joined.null_count().sum_horizontal().item() == 0
    return Finding(
        complete and off is not None and off < TOLERANCE * 10,
        {"largest_relative_difference": off, "scores": joined.height},
    )


CHECKS: Mapping[str, Sequence[Check]] = {
    "token_sequences": [
        Check("token_counts_agree", "Spans of documents cover every token of the sequences once.", token_counts_agree)
    ],
    "covariances": [
        Check(
            "factors_are_finite_and_symmetric",
            "Every A and S is finite, symmetric, and no larger off its diagonal than the diagonal allows.",
            factors_are_finite_and_symmetric,
        )
    ],
    "eigenbases": [
        Check(
            "factors_are_positive_semi_definite",
            "No merged A or S has a negative eigenvalue, to rounding.",
            factors_are_positive_semi_definite,
        ),
        Check("bases_are_orthonormal", "QᵀQ = I for both bases of every layer.", bases_are_orthonormal),
    ],
    "corrected_eigenvalues": [
        Check(
            "eigenvalues_are_finite_and_not_negative",
            "Every Λ is a total of squares.",
            eigenvalues_are_finite_and_not_negative,
        )
    ],
    "influence_scores": [
        Check(
            "every_sequence_is_scored",
            "One finite score for each query of the set and each sequence of the shard.",
            every_sequence_is_scored,
        )
    ],
    "influence_details": [
        Check(
            "layers_sum_to_the_score",
            "The split over layers and the split over tokens both add up to the score.",
            layers_sum_to_the_score,
        )
    ],
}
