"""EK-FAC: the eigenvalue-corrected Kronecker-factored curvature of one linear layer.

Sources: George et al. 2018 (arXiv 1806.03884), Alg. 1; Grosse et al. 2023 (arXiv 2308.03296), Sec. 2.2 and 3.
The letters are those of `notation.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from scipy.linalg import eigh
from torch import Tensor

from influence_assets.maths.block_diagonal import BlockDiagonal, block_diagonal, block_widths, blocks_of
from influence_assets.maths.identity import Identity
from influence_assets.maths.kernels import chosen
from influence_assets.maths.moments import FactorMoment
from influence_assets.maths.notation import in_float64
from influence_assets.maths.outer_products import DiagonalScale
from influence_assets.maths.products import columnwise, left_product, product
from influence_assets.maths.rows import Rows
from influence_assets.maths.sketches import Energies

TOKENS_WORTH_ONE_BY_ONE = 256
"""Sequences of at least this many tokens are multiplied one by one on a CPU, a fifth faster than torch's bmm."""


def sequence_gradients(
    Ds: Float[Tensor, "sequence token d_out"],
    a: Float[Tensor, "sequence token d_in"],
    *,
    out: Float[Tensor, "sequence d_out d_in"] | None = None,
) -> Float[Tensor, "sequence d_out d_in"]:
    """G = Σ_t Ds_t a_tᵀ, one for each sequence.

    Args:
        Ds: gradients at the layer's outputs.
        a: the layer's inputs.
        out: memory to write them to; memory that is still in the processor's cache saves a quarter of the time.
    """
    DsT = rearrange(Ds, "sequence token d_out -> sequence d_out token")
    if a.shape[1] < TOKENS_WORTH_ONE_BY_ONE or Ds.device.type != "cpu" or Ds.dtype != torch.float32:
        return torch.bmm(DsT, a, out=out)
    gradients = Ds.new_empty(len(a), Ds.shape[2], a.shape[2]) if out is None else out
    for G, left, right in zip(gradients, DsT, a, strict=True):
        G.copy_(left_product(left.contiguous(), right))
    return gradients


@dataclass(frozen=True)
class RotationOrder:
    """The sides of sequence gradients that are rotated token by token, before the sum over tokens, and the cost.

    Args:
        S_by_token: whether Ds is rotated rather than the gradient's rows.
        A_by_token: whether a is rotated rather than the gradient's columns.
        multiplications: the multiplications of both rotations of one sequence.
    """

    S_by_token: bool
    A_by_token: bool
    multiplications: int


def rotation_order(tokens: int, d_out: int, d_in: int, *, blocks: int = 1) -> RotationOrder:
    """Return the cheapest order of rotating one sequence's gradient of a layer, by counted multiplications.

    Args:
        tokens: length of the sequence.
        d_out: width of S.
        d_in: width of A.
        blocks: the number of blocks on the diagonal of Q_S and Q_A.
    """
    by_token = tokens < d_in, tokens < d_out
    S, A = (sum(width**2 for width in block_widths(side, blocks)) for side in (d_out, d_in))
    return RotationOrder(*by_token, min(tokens, d_in) * S + min(tokens, d_out) * A)


@dataclass(frozen=True)
class Eigenbasis:
    """The Kronecker eigenvectors of one layer, Q_S ⊗ Q_A, and the eigenvalues of both factors.

    Q_S is the identity, and has no eigenvalues, where the outputs' side is left as it is (`rows.py`).
    """

    Q_S: Float[Tensor, "d_out d_out"] | BlockDiagonal | Identity
    Q_A: Float[Tensor, "d_in d_in"] | BlockDiagonal
    eigenvalues_S: Float[Tensor, " of_S"]
    eigenvalues_A: Float[Tensor, " d_in"]

    rotates: ClassVar[bool] = True
    """Whether gradients are kept in other coordinates than the model's."""

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return len(self.Q_S), len(self.Q_A)

    @property
    def blocks(self) -> int:
        """The number of blocks on the diagonal of the factors; a narrower factor has fewer."""
        return max(len(blocks_of(Q)) for Q in (self.Q_S, self.Q_A) if not isinstance(Q, Identity))

    def rotated_outputs(self, Ds: Float[Tensor, "*batch d_out"]) -> Float[Tensor, "*batch d_out"]:
        """Q_Sᵀ Ds of each token."""
        return product(Ds, self.Q_S)

    def rotated_inputs(self, a: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Q_Aᵀ a of each token."""
        return product(a, self.Q_A)

    def rotate_back(
        self, G: Float[Tensor, "*batch d_out d_in"], *, S: bool = True, A: bool = True
    ) -> Float[Tensor, "*batch d_out d_in"]:
        """Q_S G Q_Aᵀ: rotate from the eigenbasis into the model's coordinates, on both sides or on one.

        G is modified in place and returned: gradients are large, and two copies may not fit in memory.
        """
        Q_S, Q_A = (Q.contiguous() if isinstance(Q, Tensor) else Q for Q in (self.Q_S, self.Q_A))
        # One matrix at a time: a product of all at once would copy Q for each.
        for matrix in G.view(-1, *G.shape[-2:]):
            half = product(matrix, Q_A.T) if A else matrix
            matrix.copy_(left_product(Q_S, half) if S else half)
        return G

    def rotate(self, G: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        """Q_Sᵀ G Q_A: rotate from the model's coordinates into the eigenbasis; G is modified in place and returned."""
        for matrix in G.view(-1, *G.shape[-2:]):
            matrix.copy_(left_product(self.Q_S.T, product(matrix, self.Q_A)))
        return G

    def rotated_sequence_gradients(
        self,
        Ds: Float[Tensor, "sequence token d_out"],
        a: Float[Tensor, "sequence token d_in"],
        *,
        S: bool = True,
        A: bool = True,
        out: Float[Tensor, "sequence d_out d_in"] | None = None,
    ) -> Float[Tensor, "sequence d_out d_in"]:
        """Q_Sᵀ (Σ_t Ds_t a_tᵀ) Q_A, each side in whichever of its two orders takes fewer multiplications.

        Rotating the tokens of one side costs T·d², rotating the finished gradient d² times the other side's width; the
        sum over tokens in between costs the same in all orders.

        Args:
            Ds: gradients at the layer's outputs.
            a: the layer's inputs.
            S: whether the side of the outputs is rotated.
            A: whether the side of the inputs is rotated.
            out: memory to write them to, as in `sequence_gradients`.
        """
        order = rotation_order(a.shape[1], Ds.shape[2], a.shape[2])
        G = sequence_gradients(
            product(Ds, self.Q_S) if S and order.S_by_token else Ds,
            product(a, self.Q_A) if A and order.A_by_token else a,
            out=out,
        )
        if S and not order.S_by_token:
            G = self.Q_S.T @ G
        if A and not order.A_by_token:
            G = product(G, self.Q_A)
        return G if out is None or G is out else out.copy_(G)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Eigenbasis":
        """Return the basis on another device, and in another dtype if given; eigenvectors are laid out one by one."""
        Q_S, Q_A, *eigenvalues = (part.to(device=device, dtype=dtype) for part in vars(self).values())
        return Eigenbasis(columnwise(Q_S), columnwise(Q_A), *eigenvalues)


def one_sided_eigenbasis(A: FactorMoment, d_out: int) -> Eigenbasis:
    """A = Q_A Λ_A Q_Aᵀ, and Q_S = I: the basis of a layer with a row for each word.

    Args:
        A: E_sequence[Gᵀ G].
        d_out: the number of rows.

    Raises:
        ValueError: A is not finite.
    """
    eigenvalues_A, Q_A = eigendecomposition(A.mean())
    return Eigenbasis(Identity(d_out), Q_A, eigenvalues_A[:0], eigenvalues_A)


def eigenbasis(A: FactorMoment, S: FactorMoment) -> Eigenbasis:
    """A = Q_A Λ_A Q_Aᵀ and S = Q_S Λ_S Q_Sᵀ, decomposed in float64 after symmetrising, block by block.

    Raises:
        ValueError: a factor is not finite.
    """
    eigenvalues_A, Q_A = eigendecomposition(A.mean())
    eigenvalues_S, Q_S = eigendecomposition(S.mean())
    return Eigenbasis(Q_S, Q_A, eigenvalues_S, eigenvalues_A)


def eigendecomposition(
    M: Float[Tensor, "width width"] | BlockDiagonal,
) -> tuple[Float[Tensor, " width"], Float[Tensor, "width width"] | BlockDiagonal]:
    """Return the ascending eigenvalues and the eigenvectors of M, in float64 after symmetrising, block by block.

    Raises:
        ValueError: M is not finite.
    """
    eigenvalues, Q = [], []
    for block in blocks_of(M):
        B = in_float64(block)
        if not bool(torch.isfinite(B).all()):
            raise ValueError("a covariance is not finite: a loss or an activation of the model overflowed")
        values, vectors = _eigh_of_block((B + B.T) / 2)
        eigenvalues.append(values)
        Q.append(vectors)
    return torch.cat(eigenvalues), block_diagonal(Q)


def _eigh_of_block(B: Float[Tensor, "width width"]) -> tuple[Tensor, Tensor]:
    """Decompose with LAPACK's divide and conquer, overwriting B; whether SciPy's or torch's, see `kernels.py`."""
    if B.device.type != "cpu" or chosen().eigenvectors == "torch":
        decomposition = torch.linalg.eigh(B)
        return decomposition.eigenvalues, decomposition.eigenvectors
    values, vectors = eigh(B.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
    return torch.from_numpy(values), torch.from_numpy(vectors)


def damping(mean: float, scale: float) -> float:
    """λ = scale · mean(Λ) (Grosse et al. 2023, Sec. 3: scale 0.1).

    Args:
        mean: the mean of a layer's corrected eigenvalues.
        scale: the multiple.

    Raises:
        ValueError: Λ is all zero, so that any multiple of its mean is zero too.
    """
    if not mean > 0:
        raise ValueError("a layer's corrected eigenvalues are all zero: it never affects the loss")
    return scale * mean


def damped_squared_norms(
    G: Float[Tensor, "sequence row d_in"], Λ: Float[Tensor, "row d_in"], λ: float
) -> Float[Tensor, " sequence"]:
    """Σ_ij G_ij² / (Λ_ij + λ) of each sequence, in the dtype of G.

    Args:
        G: the sequences' gradients, in the eigenbasis.
        Λ: the corrected eigenvalues.
        λ: the damping.
    """
    weights = (Λ + λ).reciprocal_().flatten()  # not kept: they are as large as Λ
    squares = torch.empty_like(weights)  # of one gradient at a time, so that they stay in the processor's cache
    norms = [torch.dot(torch.mul(g, g, out=squares), weights) for g in G.flatten(1)]
    return torch.stack(norms) if norms else weights.new_zeros(0)


class DampedDiagonal:
    """(G + λI) of one layer in the eigenbasis, where it is the diagonal Λ + λ."""

    Λ: Float[Tensor, "d_out d_in"]
    λ: float

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return self.Λ.shape[0], self.Λ.shape[1]

    def precondition(self, V: Float[Tensor, "query d_out d_in"]) -> Float[Tensor, "query d_out d_in"]:
        """Return (G+λI)⁻¹ V, both in the eigenbasis, in the memory of V."""
        return V.div_(self.Λ + self.λ)

    def squared_norm(self, V: Float[Tensor, "d_out d_in"]) -> Float[Tensor, ""]:
        """Return ‖V‖² in the norm of the damped inverse, Vᵀ (G+λI)⁻¹ V = Σ_ij V_ij² / (Λ_ij + λ), in float64."""
        return (in_float64(V).square() / (in_float64(self.Λ) + self.λ)).sum()

    def self_products(
        self,
        _Ds: Float[Tensor, "sequence token d_out"],
        _a: Float[Tensor, "sequence token d_in"],
        gradients: Callable[[], Float[Tensor, "sequence row d_in"]],
        rows: Rows | None = None,
    ) -> Float[Tensor, " sequence"]:
        """Return vec(G)ᵀ (G+λI)⁻¹ vec(G) = Σ_ij (Q_Sᵀ G Q_A)_ij² / (Λ_ij + λ) of each sequence.

        Args:
            _Ds: gradients at the layer's outputs; they are not used.
            _a: the layer's inputs; they are not used.
            gradients: returns the sequences' gradients, in the eigenbasis.
            rows: the rows of the gradients that it returns, to which the sums are limited. None: all.
        """
        return damped_squared_norms(gradients(), self.Λ if rows is None else rows.of(self.Λ), self.λ)

    def scales(self) -> tuple[DiagonalScale, DiagonalScale]:
        """Return numbers for the rows and for the columns of V whose products are about (Λ + λ)^−½."""
        weights = 1 / (in_float64(self.Λ) + self.λ)
        return DiagonalScale(weights.mean(1).sqrt()), DiagonalScale(weights.mean(0).sqrt())

    def energies(self) -> Energies:
        """Return Λ/(Λ + λ)."""
        return Energies(in_float64((self.Λ / (self.Λ + self.λ)).flatten()), 0.0)

    def whitening(self, kept: Int[Tensor, " kept"]) -> "DiagonalWhitening":
        """Return what whitens gradients at these coordinates of the flattened [d_out·d_in] gradient."""
        return DiagonalWhitening(self.Λ, self.λ, kept)

    @property
    def coordinates(self) -> int:
        """How many coordinates a sketch can keep."""
        return self.Λ.numel()

    @property
    def device(self) -> torch.device:
        """The device of Λ."""
        return self.Λ.device


@dataclass(frozen=True)
class DiagonalWhitening:
    """(Λ + λ)^−½ ⊙ V at a few coordinates; only these are computed.

    Args:
        Λ: the corrected eigenvalues.
        λ: the damping.
        kept: indices into the flattened gradient.
    """

    Λ: Float[Tensor, "d_out d_in"]
    λ: float
    kept: Int[Tensor, " kept"]

    @cached_property
    def _scale(self) -> Float[Tensor, " kept"]:
        return (self.Λ.flatten()[self.kept] + self.λ).rsqrt()

    def of_gradients(self, V: Float[Tensor, "query d_out d_in"]) -> Float[Tensor, "query kept"]:
        """Return the whitened gradients, which are given in the eigenbasis."""
        return V.flatten(1)[:, self.kept] * self._scale

    def of_tokens(
        self,
        _Ds: Float[Tensor, "sequence token d_out"],
        _a: Float[Tensor, "sequence token d_in"],
        G: Float[Tensor, "sequence row d_in"],
        rows: Rows | None = None,
    ) -> tuple[Float[Tensor, "sequence kept"], Float[Tensor, " sequence"]]:
        """Return the whitened gradients of sequences, and ‖(Λ + λ)^−½ ⊙ G‖² over all coordinates.

        Args:
            _Ds: gradients at the layer's outputs; they are not used.
            _a: the layer's inputs; they are not used.
            G: their gradients, in the eigenbasis.
            rows: the rows of the gradients that are given; coordinates in others are 0 then. None: all.
        """
        norms = damped_squared_norms(G, self.Λ if rows is None else rows.of(self.Λ), self.λ)
        return self.of_gradients(G) if rows is None else self._of_rows(G, rows), norms

    def _of_rows(self, G: Float[Tensor, "sequence row d_in"], rows: Rows) -> Float[Tensor, "sequence kept"]:
        width = G.shape[2]
        places = rows.places(self.kept // width)
        (inside,) = torch.where(places >= 0)
        local = places[inside] * width + self.kept[inside] % width
        whitened = G.new_zeros(len(G), len(self.kept))
        whitened[:, inside] = G.flatten(1)[:, local] * self._scale[inside]
        return whitened


@dataclass(frozen=True)
class LayerEigenvalues(DampedDiagonal):
    """The corrected eigenvalues of one layer and its damping, without the eigenvectors."""

    Λ: Float[Tensor, "d_out d_in"]
    λ: float


@dataclass(frozen=True)
class LayerCurvature(DampedDiagonal):
    """(G + λI) of one layer, ready to be inverted: its eigenbasis, its corrected eigenvalues and its damping."""

    basis: Eigenbasis
    Λ: Float[Tensor, "d_out d_in"]
    λ: float

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "LayerCurvature":
        """Return the curvature on another device, and in another dtype if one is given."""
        return LayerCurvature(self.basis.to(device, dtype), self.Λ.to(device=device, dtype=dtype), self.λ)
