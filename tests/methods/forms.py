"""Small curvatures in every form that is kept, and the dense matrices that they stand for."""

import torch

from influence_assets.maths.block_diagonal import BlockDiagonal
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.maths.identity import Identity
from influence_assets.maths.low_rank import LowRankBasis, LowRankCurvature

D_OUT, D_IN, λ = 5, 7, 0.3


def gradients():
    return torch.randn(3, D_OUT, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def orthonormal(width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator)).Q


def positive(*shape, seed=3):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whole(Q_S, Q_A):
    of_S = positive(0 if isinstance(Q_S, Identity) else D_OUT, seed=4)
    return LayerCurvature(Eigenbasis(Q_S, Q_A, of_S, positive(D_IN, seed=5)), positive(D_OUT, D_IN), λ)


def low_rank(r_S, r_A):
    of_S, of_A = 1 + positive(r_S, seed=4), 1 + positive(r_A, seed=5)
    traces = [float(values.sum()) + 0.5 * (width > len(values)) for values, width in ((of_S, D_OUT), (of_A, D_IN))]
    basis = LowRankBasis(orthonormal(D_OUT, 0)[:, :r_S], orthonormal(D_IN, 1)[:, :r_A], of_S, of_A, *traces)
    return LowRankCurvature(basis, positive(r_S + 1, r_A + 1), λ)


FORMS = {
    "whole": whole(orthonormal(D_OUT, 0), orthonormal(D_IN, 1)),
    "blocks": whole(
        BlockDiagonal((orthonormal(3, 0), orthonormal(2, 1))), BlockDiagonal((orthonormal(4, 2), orthonormal(3, 3)))
    ),
    "an embedding": whole(Identity(D_OUT), orthonormal(D_IN, 1)),
    "low rank": low_rank(2, 3),
    "low rank, all of S": low_rank(D_OUT, 3),
    "rank 0": low_rank(0, 0),
}


def dense(curvature):
    """(G + λI) with a row for each weight, by its action on every unit matrix, inverted by a general solver."""
    units = torch.eye(D_OUT * D_IN, dtype=torch.float64).view(-1, D_OUT, D_IN)
    inverse = curvature.basis.rotate_back(curvature.precondition(curvature.basis.rotate(units.clone())))
    return torch.linalg.inv(inverse.flatten(1))


def dense_factor(curvature, letter):
    """A or S as a matrix; the identity where there is none, and the mean of what is left in the rest of a low rank."""
    basis = curvature.basis
    width = D_OUT if letter == "S" else D_IN
    values = getattr(basis, f"eigenvalues_{letter}")
    if isinstance(curvature, LowRankCurvature):
        U, trace = getattr(basis, f"U_{letter}"), getattr(basis, f"trace_{letter}")
        left = (trace - float(values.sum())) / max(1, width - len(values))
        outside = torch.eye(width, dtype=torch.float64) - U @ U.T
        return U @ torch.diag(values) @ U.T + left * outside
    Q = getattr(basis, f"Q_{letter}")
    if isinstance(Q, Identity):
        return torch.eye(width, dtype=torch.float64)
    Q = torch.block_diag(*Q.blocks) if isinstance(Q, BlockDiagonal) else Q
    return Q @ torch.diag(values) @ Q.T
