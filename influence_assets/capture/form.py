"""The measurements for each form of curvature: of whole factors and their blocks, or of low rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from influence_assets.capture.correction import CorrectionTotals
from influence_assets.capture.covariance import CovarianceTotals, FactorTotals
from influence_assets.capture.low_rank import CovarianceSketchTotals, LowRankStatistics
from influence_assets.capture.runner import Runner
from influence_assets.capture.shard_statistics import ShardStatistics
from influence_assets.errors import InputError
from influence_assets.maths.curvature import Basis
from influence_assets.maths.curvature_form import CurvatureForm
from influence_assets.maths.low_rank import LowRankBasis
from influence_assets.models.layers.rule import MODULES_KEY, AttributedLayer

AnyCovarianceTotals = FactorTotals[Any]

AnyStatistics = ShardStatistics | LowRankStatistics


def refuse_rank_of_words(layers: Sequence[AttributedLayer], form: CurvatureForm) -> None:
    """Raise if an embedding is attributed, and its curvature is to be of low rank.

    Raises:
        InputError: it is.
    """
    words = [layer.name for layer in layers if layer.outputs != "factor"]
    if words and form.rank is not None:
        raise InputError(
            "curvature.rank",
            f"there is no form of low rank for the embedding {words[0]}",
            f"Leave it out of {MODULES_KEY}, or leave out the rank.",
        )


def covariance_totals(form: CurvatureForm, dtype: torch.dtype | None = None) -> AnyCovarianceTotals:
    """Return totals of what the eigenvectors are found from.

    Args:
        form: how much of the factors is kept.
        dtype: the dtype of the sums; by default that of the passes' sums.
    """
    return CovarianceTotals(form.blocks, dtype) if form.rank is None else CovarianceSketchTotals(form, dtype)


def shard_statistics(
    form: CurvatureForm, runner: Runner, bases: Mapping[str, Basis], running: CorrectionTotals | None = None
) -> AnyStatistics:
    """Return what is measured of a shard in the bases of a generation.

    Args:
        form: how much of the factors is kept.
        runner: runs the model.
        bases: the basis of every layer.
        running: totals of Λ over earlier shards to add to, if whole factors are kept; see `ShardStatistics`.

    Raises:
        ValueError: the bases are of another form.
    """
    if form.rank is None:
        return ShardStatistics(form.blocks, running)
    of_low_rank = {name: basis for name, basis in bases.items() if isinstance(basis, LowRankBasis)}
    if len(of_low_rank) < len(bases):
        raise ValueError("the generation's bases are of another form than the study asks for")
    return LowRankStatistics(runner, of_low_rank)
