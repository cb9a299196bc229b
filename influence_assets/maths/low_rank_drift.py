"""Measures how far a growing corpus has moved from the subspace of a curvature of low rank.

A factor M = A or S that moves away from U does so in two ways: inside of the subspace Uᵀ M U is no longer diagonal, and
energy, the trace of M, moves out of it. For both, a shard keeps the small statistics of `drift.py` of its r × r matrix
Uᵀ M U, which comes from the rotated tokens alone, and its trace. All of them add up over shards.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.drift import RotatedFactor, factor_statistics
from influence_assets.maths.notation import in_float64


@dataclass(frozen=True)
class SubspaceFactor:
    """Small statistics of Uᵀ M U and of M, which can be added over shards like M itself.

    Args:
        within: those of Uᵀ M U; its `drift` is that inside of the subspace.
        trace: the trace of M.
    """

    within: RotatedFactor
    trace: Float[Tensor, "*shards"]

    def drift_from(self, frozen: "SubspaceFactor") -> Float[Tensor, "*shards"]:
        """Return the drift from a generation: inside of the subspace, or into or out of it, whichever is larger.

        Inside it is the change of what is off the diagonal of Uᵀ M U, relative to all of it; traces are scaled to 1.

        Args:
            frozen: the totals that the generation was fitted on.
        """
        sketch, diagonal = (x / self.trace[..., None] for x in (self.within.sketch, self.within.diagonal))
        # A sketch's eigenvectors are not quite those of what it is of, so that there was something off the diagonal.
        off = (sketch - frozen.within.sketch / frozen.trace).square().sum(-1)
        inside = off / (diagonal.square().sum(-1) + sketch.square().sum(-1))
        outside = (self.outside() - frozen.outside()).abs()
        return torch.where(self.trace > 0, torch.maximum(inside.nan_to_num(), outside), 0.0)

    def outside(self) -> Float[Tensor, "*shards"]:
        """Return the share of energy outside of the subspace, 1 − tr(Uᵀ M U) / tr(M); 0 if there is none at all.

        That of the totals that U was fitted on is 1 − `LeadingEigenvectors.energy`.
        """
        share = 1 - self.within.diagonal.sum(-1) / self.trace
        return torch.where(self.trace > 0, share, 0.0)


def subspace_factor(within: Float[Tensor, "r r"], trace: Float[Tensor, ""]) -> SubspaceFactor:
    """Return the statistics of a factor, in float64 on the host.

    Args:
        within: Uᵀ M U, the total of (Uᵀ x)(Uᵀ x)ᵀ over tokens.
        trace: the total of ‖x‖².
    """
    return SubspaceFactor(factor_statistics(within), in_float64(trace).cpu())
