"""Curvature as a training of limited length uses it (SOURCE; Bae et al. 2024, arXiv 2405.12186)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.curvature import Curvature


def unrolled(curvature: Curvature, learning_rates: float) -> Curvature:
    """Return a curvature whose damped inverse is (1 − exp(−Λ ηK)) / Λ, and ηK where Λ is 0.

    It is the effect of a constant push on the weights, V, under gradient flow, dx/dη = V − Λ x, that has gone on for ηK
    in the unit of 1/Λ. What has been learnt many times over, Λ ηK ≫ 1, has the inverse 1/Λ, as if training had
    converged; what has hardly been learnt has ηK, as if there were no curvature: that is the gradient product, and no
    damping is needed. Of low rank, the mean eigenvalues of the rest are treated like the others.

    Args:
        curvature: the curvature, whose own damping is not used.
        learning_rates: ηK, the learning rates' sum over the steps, divided by what turns the loss that the curvature is
            of (a sequence's, summed) into the one that the steps are taken on.

    Raises:
        ValueError: the sum of the learning rates is not positive.
    """
    if not learning_rates > 0:
        raise ValueError(f"the sum of learning rates is {learning_rates}, not positive")
    return replace(curvature, Λ=1 / response(curvature.Λ, learning_rates), λ=0.0)


def response(Λ: Float[Tensor, "*shape"], learning_rates: float) -> Float[Tensor, "*shape"]:
    """Return (1 − exp(−Λ ηK)) / Λ; ηK where Λ is 0, or below it by rounding."""
    x = Λ.clamp_min(0) * learning_rates
    is_positive = x > 0
    share = -torch.expm1(-x) / torch.where(is_positive, x, torch.ones_like(x))
    return learning_rates * torch.where(is_positive, share, torch.ones_like(x))
