"""K-FAC's eigenvalues in the bases of EK-FAC: products of those of the factors instead of measured ones."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.curvature import Curvature
from influence_assets.maths.low_rank import LowRankCurvature


def uncorrected(curvature: Curvature) -> Curvature:
    """Return the curvature with c · λ_S λ_Aᵀ in place of Λ (Martens & Grosse 2015), and the same damping.

    c gives both the same mean eigenvalue: K-FAC takes a sequence's tokens as independent, and what that does to the
    size is left out, so that the damping means the same to both. Where outputs have no factor, as an embedding's rows,
    all of λ_S are equal. Of low rank, the rest of a side has the mean of the eigenvalues that are left.
    """
    if isinstance(curvature, LowRankCurvature):
        low = curvature.basis
        of_S = _bordered(low.eigenvalues_S, low.trace_S, len(low.U_S))
        of_A = _bordered(low.eigenvalues_A, low.trace_A, len(low.U_A))
        weights = low.multiplicities
    else:
        basis = curvature.basis
        of_S = basis.eigenvalues_S if len(basis.eigenvalues_S) else curvature.Λ.new_ones(basis.shape[0])
        of_A, weights = basis.eigenvalues_A, torch.ones_like(curvature.Λ)
    λ_S, λ_A = (side.to(curvature.Λ).clamp_min(0) for side in (of_S, of_A))
    products = torch.outer(λ_S, λ_A)
    weights = weights.to(products)
    total = (weights * products).sum()
    scale = torch.where(total > 0, (weights * curvature.Λ).sum() / total, torch.zeros_like(total))
    return replace(curvature, Λ=products * scale)


def _bordered(values: Float[Tensor, " r"], trace: float, width: int) -> Float[Tensor, " r+1"]:
    left = max(0.0, trace - float(values.sum())) / max(1, width - len(values))
    return torch.cat([values, values.new_tensor([left])])
