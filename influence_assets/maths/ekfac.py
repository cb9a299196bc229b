"""EK-FAC: the eigenvalue-corrected Kronecker-factored curvature of one linear layer.

Sources: George et al. 2018 (arXiv 1806.03884), Alg. 1; Grosse et al. 2023 (arXiv 2308.03296), Sec. 2.2 and 3.
The letters are those of `notation.py`.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from influence_assets.maths.moments import SecondMoment
from influence_assets.maths.notation import accumulation_dtype


def second_moment(
    x: Float[Tensor, "sequence token width"],
    counted: Bool[Tensor, "sequence token"],
) -> SecondMoment:
    """Σ x xᵀ over the tokens that carry a loss: A of inputs, S of output gradients.

    Positions without a loss are left out of the total and of the count: a padded position would otherwise
    weigh in A with whatever the model makes of padding.
    """
    rows = x[counted].to(accumulation_dtype(x.dtype))
    return SecondMoment(rows.T @ rows, rows.shape[0])


def sequence_gradients(
    Ds: Float[Tensor, "sequence token d_out"],
    a: Float[Tensor, "sequence token d_in"],
) -> Float[Tensor, "sequence d_out d_in"]:
    """G = Σ_t Ds_t a_tᵀ, one for each sequence."""
    return torch.bmm(rearrange(Ds, "sequence token d_out -> sequence d_out token"), a)


@dataclass(frozen=True)
class Eigenbasis:
    """The Kronecker eigenvectors of one layer, Q_S ⊗ Q_A, and the eigenvalues of both factors."""

    Q_S: Float[Tensor, "d_out d_out"]
    Q_A: Float[Tensor, "d_in d_in"]
    eigenvalues_S: Float[Tensor, " d_out"]
    eigenvalues_A: Float[Tensor, " d_in"]

    def rotate(self, G: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        """Q_Sᵀ G Q_A: from the model's coordinates into the eigenbasis."""
        return self.Q_S.T @ G @ self.Q_A

    def rotate_back(self, G: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        """Q_S G Q_Aᵀ: from the eigenbasis into the model's coordinates."""
        return self.Q_S @ G @ self.Q_A.T

    def rotated_sequence_gradients(
        self, Ds: Float[Tensor, "sequence token d_out"], a: Float[Tensor, "sequence token d_in"]
    ) -> Float[Tensor, "sequence d_out d_in"]:
        """Q_Sᵀ (Σ_t Ds_t a_tᵀ) Q_A, by whichever of its two orders takes fewer multiplications.

        Rotating every token costs T·(d_in² + d_out²), rotating the finished gradient d_in·d_out·(d_in + d_out);
        the sum over tokens in between costs the same in both.
        """
        tokens, d_out, d_in = a.shape[1], Ds.shape[2], a.shape[2]
        if tokens * (d_in**2 + d_out**2) < d_in * d_out * (d_in + d_out):
            return sequence_gradients(Ds @ self.Q_S, a @ self.Q_A)
        return self.rotate(sequence_gradients(Ds, a))

    def to(self, device: str | torch.device, dtype: torch.dtype) -> "Eigenbasis":
        """The same basis on another device and in another dtype."""
        moved = (part.to(device=device, dtype=dtype) for part in vars(self).values())
        return Eigenbasis(*moved)


def eigenbasis(A: SecondMoment, S: SecondMoment) -> Eigenbasis:
    """A = Q_A Λ_A Q_Aᵀ and S = Q_S Λ_S Q_Sᵀ, decomposed in float64 after symmetrising.

    Raises:
        ValueError: a factor is not finite.
    """
    eigenvalues_A, Q_A = _eigh(A.mean())
    eigenvalues_S, Q_S = _eigh(S.mean())
    return Eigenbasis(Q_S, Q_A, eigenvalues_S, eigenvalues_A)


def _eigh(M: Float[Tensor, "width width"]) -> tuple[Float[Tensor, " width"], Float[Tensor, "width width"]]:
    M = M.to(torch.float64)
    if not bool(torch.isfinite(M).all()):
        raise ValueError("a covariance is not finite: a loss or an activation of the model overflowed")
    eigenvalues, Q = torch.linalg.eigh((M + M.T) / 2)
    return eigenvalues, Q


def corrected_eigenvalues(rotated: Float[Tensor, "sequence d_out d_in"]) -> SecondMoment:
    """Λ = E_sequence[(Q_Sᵀ G Q_A)^∘2]: tokens are summed before squaring, sequences are averaged after it."""
    squares = rotated.to(accumulation_dtype(rotated.dtype)).square()
    return SecondMoment(squares.sum(dim=0), rotated.shape[0])


def damping(Λ: Float[Tensor, "d_out d_in"], scale: float) -> float:
    """λ = scale · mean(Λ) (Grosse et al. 2023, Sec. 3: scale 0.1).

    Raises:
        ValueError: the layer has no curvature at all, so that no multiple of it can damp.
    """
    mean = float(Λ.mean())
    if not mean > 0:
        raise ValueError("a layer's corrected eigenvalues are all zero: it never affects the loss")
    return scale * mean


@dataclass(frozen=True)
class LayerCurvature:
    """(G + λI) of one layer, ready to be inverted: its eigenbasis, its corrected eigenvalues and its damping."""

    basis: Eigenbasis
    Λ: Float[Tensor, "d_out d_in"]
    λ: float

    def inverse_times(self, V: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        """(G+λI)⁻¹ vec V ↦ Q_S[(Q_Sᵀ V Q_A) ⊘ (Λ + λ)] Q_Aᵀ (Grosse et al. 2023, Eq. 21)."""
        return self.basis.rotate_back(self.basis.rotate(V) / (self.Λ + self.λ))

    def whiten(self, rotated: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        """(Λ + λ)^−½ ⊙ (Q_Sᵀ G Q_A): the inner product of two whitened gradients is ⟨V, (G+λI)⁻¹ G⟩."""
        return rotated * (self.Λ + self.λ).rsqrt()

    def to(self, device: str | torch.device, dtype: torch.dtype) -> "LayerCurvature":
        """The same curvature on another device and in another dtype."""
        return LayerCurvature(self.basis.to(device, dtype), self.Λ.to(device=device, dtype=dtype), self.λ)
