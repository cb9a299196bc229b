"""The diagonal of a layer's curvature in the model's own coordinates: one number for each weight."""

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.block_diagonal import BlockDiagonal
from influence_assets.maths.curvature import Curvature
from influence_assets.maths.identity import Identity
from influence_assets.maths.low_rank import LowRankCurvature
from influence_assets.maths.products import left_product, product


def diagonal(curvature: Curvature) -> Float[Tensor, "d_out d_in"]:
    """Return the diagonal of G, without damping: (Q_S∘Q_S) Λ (Q_A∘Q_A)ᵀ.

    Of low rank, what lies outside of the leading eigenvectors U counts with its mean eigenvalues: Q∘Q is U∘U with one
    more column, 1 − Σ U∘U, which is how much of each coordinate is outside.
    """
    if isinstance(curvature, LowRankCurvature):
        return _bordered(curvature.basis.U_S) @ curvature.Λ @ _bordered(curvature.basis.U_A).T
    basis = curvature.basis
    return left_product(_squared(basis.Q_S), product(curvature.Λ, _squared(basis.Q_A).T))


def _bordered(U: Float[Tensor, "width r"]) -> Float[Tensor, "width r+1"]:
    inside = U.square()
    return torch.cat([inside, (1 - inside.sum(1, keepdim=True)).clamp_min(0)], 1)


def _squared(Q: Tensor | BlockDiagonal | Identity) -> Tensor | BlockDiagonal | Identity:
    if isinstance(Q, BlockDiagonal):
        return BlockDiagonal(tuple(block.square() for block in Q.blocks))
    return Q.square() if isinstance(Q, Tensor) else Q
