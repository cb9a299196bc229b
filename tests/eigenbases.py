"""Into a layer's eigenbasis by whole matrices, and from there through the code that production runs."""

import torch
from torch import Tensor

from influence_assets.maths.block_diagonal import blocks_of
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.moments import SquareAccumulator
from influence_assets.methods.ekfac import precondition


def whole(basis: Eigenbasis) -> tuple[Tensor, Tensor]:
    """Q_S and Q_A, without blocks."""
    Q_S, Q_A = (torch.block_diag(*blocks_of(Q)) for Q in (basis.Q_S, basis.Q_A))
    return Q_S, Q_A


def rotated(basis: Eigenbasis, G: Tensor) -> Tensor:
    """Q_Sᵀ G Q_A."""
    Q_S, Q_A = whole(basis)
    return Q_S.T @ G @ Q_A


def preconditioned(layer: LayerCurvature, V: Tensor) -> Tensor:
    """(G + λI)⁻¹ V, in the model's coordinates."""
    layers = precondition({"layer": rotated(layer.basis, V)}, {"layer": layer})
    return layer.basis.rotate_back(layers["layer"])


def mean_squares(rotated: Tensor) -> Tensor:
    """Λ of these sequences."""
    summed = SquareAccumulator()
    summed.add(rotated)
    return summed.moment().mean()
