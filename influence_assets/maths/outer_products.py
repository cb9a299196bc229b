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

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.notation import in_float64


@dataclass(frozen=True)
class OuterProducts:
    """V = Lᵀ R = Σ_row L_row R_rowᵀ."""

    L: Float[Tensor, "row d_out"]
    R: Float[Tensor, "row d_in"]

    def __len__(self) -> int:
        return len(self.L)

    def sum(self, *, out: Float[Tensor, "d_out d_in"] | None = None) -> Float[Tensor, "d_out d_in"]:
        """Return V, written to memory that is given."""
        return torch.mm(self.L.T, self.R, out=out)


def truncated(V: OuterProducts, Λ: Float[Tensor, "d_out d_in"], λ: float, rank: int) -> OuterProducts:
    """Return V as at most `rank` outer products, nearest to it in a norm like that of the damped inverse.

    The matrix that is decomposed has at most as many rows and columns as V has outer products: with the QR
    decompositions (L √ρ)ᵀ = Q_L C_L and (R √κ)ᵀ = Q_R C_R, where ρ and κ are the weights of rows and columns, the
    scaled V is Q_L (C_L C_Rᵀ) Q_Rᵀ.

    Args:
        V: the gradient.
        Λ: the layer's corrected eigenvalues.
        λ: its damping.
        rank: the largest number of outer products.
    """
    weights = 1 / (in_float64(Λ) + λ)
    rows, columns = weights.mean(1).sqrt(), weights.mean(0).sqrt()
    Q_L, C_L = torch.linalg.qr((in_float64(V.L) * rows).T)
    Q_R, C_R = torch.linalg.qr((in_float64(V.R) * columns).T)
    U, singular_values, WT = torch.linalg.svd(C_L @ C_R.T, full_matrices=False)
    scales = singular_values[:rank].sqrt()
    L = (Q_L @ U[:, :rank] * scales).T / rows
    R = (Q_R @ WT[:rank].T * scales).T / columns
    return OuterProducts(L.to(V.L), R.to(V.R))


def squared_norm(V: Float[Tensor, "d_out d_in"], Λ: Float[Tensor, "d_out d_in"], λ: float) -> Float[Tensor, ""]:
    """Return ‖V‖² in the norm of the damped inverse, Vᵀ (G+λI)⁻¹ V = Σ_ij V_ij² / (Λ_ij + λ), in float64."""
    return (in_float64(V).square() / (in_float64(Λ) + λ)).sum()
