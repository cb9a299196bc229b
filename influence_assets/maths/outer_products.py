"""A query's gradient of one layer as the outer products that it is the sum of, and its truncation to a lower rank.

A sequence's gradient is a sum over its tokens, V = Σ_t Ds_t a_tᵀ. In the eigenbases, with the rows L_t = Q_Sᵀ Ds_t and
R_t = Q_Aᵀ a_t, it is V = Lᵀ R: of few tokens L and R have fewer numbers than V, and lose nothing.

More tokens are replaced by the outer products of a truncated singular value decomposition. Scores multiply (G+λI)⁻¹ V,
so what is left out is to be small in the norm of the damped inverse, ‖V‖² = Σ_ij V_ij² / (Λ_ij + λ), in which no short
form is known for the best V of a given rank. It is known where the weights 1 / (Λ_ij + λ) are a product of one number
for each row and one for each column (Eckart & Young 1936, applied to the scaled matrix): so V is truncated with the
weights' means over columns and over rows in their place, and the error is stated in the norm itself.

The letters are those of `notation.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from influence_assets.maths.notation import in_float64


@dataclass(frozen=True)
class OuterProducts:
    """V = Lᵀ R = Σ_row L_row R_rowᵀ, plus vectors that are added to single rows of V.

    Args:
        L: the rows of one side.
        R: the rows of the other.
        indices: the rows of V that have a vector of their own, each once (`rows.py`); None: none.
        X: these vectors.
    """

    L: Float[Tensor, "row d_out"]
    R: Float[Tensor, "row d_in"]
    indices: Int[Tensor, " own"] | None = None
    X: Float[Tensor, "own d_in"] | None = None

    def __len__(self) -> int:
        return len(self.L)

    def sum(self, *, out: Float[Tensor, "d_out d_in"] | None = None) -> Float[Tensor, "d_out d_in"]:
        """Return V, written to memory that is given."""
        V = torch.mm(self.L.T, self.R, out=out)
        return V if self.indices is None or self.X is None else V.index_add_(0, self.indices, self.X)

    def to(self, device: str | torch.device) -> "OuterProducts":
        """Return them on another device."""
        own = () if self.indices is None or self.X is None else (self.indices.to(device), self.X.to(device))
        return OuterProducts(self.L.to(device), self.R.to(device), *own)


@dataclass(frozen=True)
class GradientParts:
    """What V of several queries is the sum of, for one layer.

    Args:
        queries: how many queries there are.
        parts: the outer products of each query, or V itself; V of others is zero.
        like: a tensor [0, d_out, d_in] of the dtype and on the device of V.
    """

    queries: int
    parts: Mapping[int, Tensor | OuterProducts]
    like: Tensor

    @classmethod
    def of(cls, parts: Sequence[Tensor | OuterProducts], like: Tensor) -> "GradientParts":
        """Return the parts of every query; `like` as in the class."""
        return cls(len(parts), dict(enumerate(parts)), like)

    def sums(self, out: Float[Tensor, "query d_out d_in"] | None = None) -> Float[Tensor, "query d_out d_in"]:
        """Return V, in memory of its own or in that of `out`, if this is of the dtype and on the device of V."""
        if out is None or (out.dtype, out.device) != (self.like.dtype, self.like.device):
            out = self.like.new_empty(self.queries, *self.like.shape[1:])
        V = out
        for query in range(self.queries):
            part = self.parts.get(query)
            if isinstance(part, OuterProducts):
                part.sum(out=V[query])
            elif part is None:
                V[query] = 0
            else:
                V[query] = part
        return V


@runtime_checkable
class Scale(Protocol):
    """A symmetric matrix on one side of V, which can be undone."""

    def apply(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Return the rows multiplied by it."""

    def undo(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Return the rows multiplied by its inverse."""


@dataclass(frozen=True)
class DiagonalScale:
    """A positive number for each coordinate."""

    numbers: Float[Tensor, " width"]

    def apply(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Return the rows multiplied by it."""
        return rows * self.numbers

    def undo(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Return the rows multiplied by its inverse."""
        return rows / self.numbers


@runtime_checkable
class Scaled(Protocol):
    """What is needed of a layer's curvature in order to truncate gradients."""

    def scales(self) -> tuple[Scale, Scale]:
        """Return scales S and A such that S V A is about (G+λI)^−½ V."""


def truncated(V: OuterProducts, curvature: Scaled, rank: int) -> OuterProducts:
    """Return V as at most `rank` outer products, nearest to it in a norm like that of the damped inverse.

    The matrix that is decomposed has at most as many rows and columns as V has outer products: with the QR
    decompositions (L √ρ)ᵀ = Q_L C_L and (R √κ)ᵀ = Q_R C_R, where ρ and κ are the weights of rows and columns, the
    scaled V is Q_L (C_L C_Rᵀ) Q_Rᵀ. Vectors of single rows take little, and are kept.

    Args:
        V: the gradient.
        curvature: the layer's curvature.
        rank: the largest number of outer products.
    """
    S, A = curvature.scales()
    Q_L, C_L = torch.linalg.qr(S.apply(in_float64(V.L)).T)
    Q_R, C_R = torch.linalg.qr(A.apply(in_float64(V.R)).T)
    U, singular_values, WT = torch.linalg.svd(C_L @ C_R.T, full_matrices=False)
    scales = singular_values[:rank].sqrt()
    L = S.undo((Q_L @ U[:, :rank] * scales).T)
    R = A.undo((Q_R @ WT[:rank].T * scales).T)
    return OuterProducts(L.to(V.L), R.to(V.R), V.indices, V.X)
