"""What must hold of an artifact, looked up in what was stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from influence_assets.pipeline.steps import Partition
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
        blocking: whether what does not hold is an error; otherwise it is news for people, a warning.
    """

    name: str
    description: str
    look: Callable[[Artifact, Opener], Finding]
    blocking: bool = True


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
        float(np.nan_to_num(artifact.array(name), nan=-np.inf, posinf=-np.inf).min())
        for name in artifact.array_names()
        if name.endswith(".corrected_eigenvalues")
    )
    return Finding(smallest >= 0, {"smallest": smallest})


def drift_is_below_the_threshold(artifact: Artifact, _open: Opener) -> Finding:
    """No layer's statistics have moved further from the frozen generation than the study allows."""
    worst = artifact.table("layer_drift").sort("drift", descending=True, maintain_order=True).head(1).collect()
    layer = worst.row(0, named=True)
    passed = layer["drift"] <= layer["threshold"]
    figures = {name: layer[name] for name in ("module_name", "measure", "drift", "threshold", "generation_id")}
    figures |= {"shards": layer["shards"], "fitted_shards": layer["fitted_shards"]}
    if not passed:
        figures["what_to_do"] = (
            "Scores are still right for the generation that they name, but it describes the corpus less well. Fit a "
            "new generation: materialise `eigenbases` with `new_generation`, or set `curvature.new_generation: "
            "automatic` in the study. If the scores' order matters less to you, raise `curvature.drift_threshold`."
        )
    return Finding(passed, figures)


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
    pair = ["query_id", "sequence_id"]
    strongest = artifact.table("strongest").select(*pair, "shard_id").collect()
    # Few shards hold the strongest, however many there are.
    shards = set(strongest["shard_id"])
    keys = [key for key in artifact.manifest.inputs if key.asset == "influence_scores"]
    keys = [key for key in keys if Partition.parse("pair", key.partition).shard in shards]
    exact = [open_input(key).table("influence_scores").select(*pair, score="influence_nats") for key in keys]
    joined = strongest.lazy().select(pair)
    for name in ("layer_influence", "token_influence"):
        total = artifact.table(name).group_by(pair).agg(pl.col("influence_nats").sum().alias(name))
        joined = joined.join(total, on=pair, how="full", coalesce=True)
    empty = strongest.lazy().head(0).select(*pair, score=pl.lit(0.0))
    compared = joined.join(pl.concat([empty, *exact]), on=pair, how="left").collect()
    if compared.is_empty():
        return Finding(passed=True, figures={"scores": 0})
    # Relative to the query's largest: small scores are differences of large parts, which round.
    size = pl.col("score").abs().max().over("query_id")
    # Polars' max passes over NaN.
    off = compared.select(
        pl.max_horizontal(
            ((pl.col(name) - pl.col("score")).abs().fill_nan(float("inf")) / size).max()
            for name in ("layer_influence", "token_influence")
        )
    ).item()
    complete = compared.null_count().sum_horizontal().item() == 0
    return Finding(
        complete and off is not None and off < TOLERANCE * 10,
        {"largest_relative_difference": off, "scores": compared.height},
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
    "curvature_drift": [
        Check(
            "drift_is_below_the_threshold",
            "No layer's statistics have moved further from the frozen generation than the study's threshold.",
            drift_is_below_the_threshold,
            blocking=False,
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
