"""Curvature of low rank: EK-FAC in the span of a few leading eigenvectors, and isotropic in the rest of the space.

Of a layer's factors the r leading eigenvectors are kept, U_S [d_out, r_S] and U_A [d_in, r_A], r_S = min(r, d_out) and
r_A = min(r, d_in). The space of gradients is U_S ⊗ U_A, U_S ⊗ rest, rest ⊗ U_A and rest ⊗ rest, and

    Λ_ij   = E_sequence[(u_S,iᵀ G u_A,j)²]                        as in EK-FAC,
    σ_S,i  = E_sequence[‖u_S,iᵀ G (I − U_A U_Aᵀ)‖²] / (d_in − r_A)      one mean for each u_S,i,
    σ_A,j  = E_sequence[‖(I − U_S U_Sᵀ) G u_A,j‖²] / (d_out − r_S)      one mean for each u_A,j,
    σ      = E_sequence[‖(I − U_S U_Sᵀ) G (I − U_A U_Aᵀ)‖²] / ((d_out − r_S)(d_in − r_A)),

so that the trace is that of the whole. LoGra (arXiv 2405.13954) and its followers drop the rest instead. With r full
this is EK-FAC; with r = 0 it is the product of gradients, divided by σ + λ.

**Bordered matrices.** Everything is a matrix [r_S + 1, r_A + 1] whose last row and column stand for the rest: squared
norms of a gradient's parts, their means Λ, and 1/(Λ + λ). An entry of Λ stands for as many eigenvalues as
`LowRankBasis.multiplicities` says. Squared norms add up over sequences and shards like EK-FAC's.

**Precision.** (G+λI)⁻¹ multiplies the rest by up to Λ/λ times as much as the strongest directions, and rounding errors
that leave U with it. So queries are best preconditioned with a curvature in float64, whatever their own dtype is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from influence_assets.maths.ekfac import damping, sequence_gradients
from influence_assets.maths.factored import Factors
from influence_assets.maths.moments import SecondMoment
from influence_assets.maths.notation import in_float64
from influence_assets.maths.products import product
from influence_assets.maths.range_finder import LeadingEigenvectors
from influence_assets.maths.rows import Rows
from influence_assets.maths.sketches import Energies
from influence_assets.maths.split_tokens import SplitTokens, split

Rest = Literal["isotropic", "dropped"]
"""What becomes of the space outside of U_S ⊗ U_A: it has the means that are left, or preconditioned vectors lack it."""

_NO_ROWS = "curvature of low rank has no rows of words"

ROWS_AT_ONCE = 512
"""How many rows of a gradient are copied at a time to be preconditioned."""


@dataclass(frozen=True)
class LowRankBasis:
    """The leading eigenvectors of one layer's factors, by descending eigenvalue, and the factors' traces."""

    U_S: Float[Tensor, "d_out r_S"]
    U_A: Float[Tensor, "d_in r_A"]
    eigenvalues_S: Float[Tensor, " r_S"]
    eigenvalues_A: Float[Tensor, " r_A"]
    trace_S: float
    trace_A: float

    @classmethod
    def of(cls, A: LeadingEigenvectors, S: LeadingEigenvectors) -> "LowRankBasis":
        """Return the basis of a layer with these eigenvectors."""
        return cls(S.U, A.U, S.eigenvalues, A.eigenvalues, S.trace, A.trace)

    rotates: ClassVar[bool] = False
    """U does not span the space, so gradients are kept in the model's coordinates."""

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return len(self.U_S), len(self.U_A)

    @property
    def multiplicities(self) -> Float[Tensor, "rows columns"]:
        """How many eigenvalues of the whole curvature each entry of a bordered matrix stands for."""
        return torch.outer(*self.side_multiplicities)

    @property
    def side_multiplicities(self) -> tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]:
        """How many directions of S, and of A, each row and each column of a bordered matrix stands for."""
        of_S, of_A = (U.new_ones(U.shape[1] + 1) for U in (self.U_S, self.U_A))
        of_S[-1], of_A[-1] = (len(U) - U.shape[1] for U in (self.U_S, self.U_A))
        return of_S, of_A

    def truncated(self, r_S: int, r_A: int) -> "LowRankBasis":
        """Return the basis with no more than these numbers of eigenvectors."""
        return LowRankBasis(
            self.U_S[:, :r_S],
            self.U_A[:, :r_A],
            self.eigenvalues_S[:r_S],
            self.eigenvalues_A[:r_A],
            self.trace_S,
            self.trace_A,
        )

    def split(self, Ds: Float[Tensor, "sequence token d_out"], a: Float[Tensor, "sequence token d_in"]) -> SplitTokens:
        """Return each token's coordinates in U, and the rest of it."""
        (s, s_rest), (a_within, a_rest) = (
            split(x, U) if U.shape[1] < len(U) else (product(x, U), x[..., :0])
            for x, U in ((Ds, self.U_S), (a, self.U_A))
        )
        return SplitTokens(s, a_within, s_rest, a_rest)

    def rotated_outputs(self, Ds: Float[Tensor, "*batch d_out"]) -> Float[Tensor, "*batch d_out"]:
        """Return Ds: gradients are kept in the model's coordinates."""
        return Ds

    def rotated_inputs(self, a: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Return a: gradients are kept in the model's coordinates."""
        return a

    def rotate_back(
        self,
        G: Float[Tensor, "*batch d_out d_in"],
        *,
        S: bool = True,  # noqa: ARG002  # as that of `Eigenbasis`
        A: bool = True,  # noqa: ARG002
    ) -> Float[Tensor, "*batch d_out d_in"]:
        """Return G: it is in the model's coordinates."""
        return G

    def rotate(self, G: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        """Return G: gradients are kept in the model's coordinates."""
        return G

    def rotated_sequence_gradients(
        self,
        Ds: Float[Tensor, "sequence token d_out"],
        a: Float[Tensor, "sequence token d_in"],
        *,
        S: bool = True,  # noqa: ARG002  # as that of `Eigenbasis`
        A: bool = True,  # noqa: ARG002
        out: Float[Tensor, "sequence d_out d_in"] | None = None,
    ) -> Float[Tensor, "sequence d_out d_in"]:
        """Σ_t Ds_t a_tᵀ, in the model's coordinates, in which gradients are kept."""
        return sequence_gradients(Ds, a, out=out)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "LowRankBasis":
        """Return the basis on another device, and in another dtype if given; eigenvectors are laid out one by one."""
        U_S, U_A = (U.to(device=device, dtype=dtype).T.contiguous().T for U in (self.U_S, self.U_A))
        of_S, of_A = (values.to(device=device, dtype=dtype) for values in (self.eigenvalues_S, self.eigenvalues_A))
        return LowRankBasis(U_S, U_A, of_S, of_A, self.trace_S, self.trace_A)


def mean_eigenvalues(squared_norms: SecondMoment[Tensor], basis: LowRankBasis) -> Float[Tensor, "rows columns"]:
    """Return Λ, bordered by the mean eigenvalues of the rest; 0 where there is no rest.

    Args:
        squared_norms: totals of `SplitTokens.squared_norms` over sequences.
        basis: the basis that they were measured in.
    """
    return squared_norms.mean() / basis.multiplicities.to(squared_norms.total).clamp(min=1)


@dataclass(frozen=True)
class LowRankCurvature:
    """(G + λI) of one layer, ready to be inverted.

    Args:
        basis: the leading eigenvectors.
        Λ: bordered corrected eigenvalues, as `mean_eigenvalues` returns them.
        λ: the damping.
        rest: what becomes of the rest of the space.
    """

    basis: LowRankBasis
    Λ: Float[Tensor, "rows columns"]
    λ: float
    rest: Rest = "isotropic"

    @classmethod
    def fitted(
        cls, basis: LowRankBasis, squared_norms: SecondMoment[Tensor], scale: float, rest: Rest = "isotropic"
    ) -> "LowRankCurvature":
        """Return the curvature with λ = scale · the mean of all d_out·d_in eigenvalues, which is EK-FAC's.

        Raises:
            ValueError: all eigenvalues are zero.
        """
        eigenvalues = len(basis.U_S) * len(basis.U_A)
        λ = damping(float(squared_norms.mean().sum()) / eigenvalues, scale)
        return cls(basis, mean_eigenvalues(squared_norms, basis), λ, rest)

    @property
    def inverse(self) -> Float[Tensor, "rows columns"]:
        """1/(Λ + λ), bordered; 0 where there is no rest, or where it is dropped."""
        D = torch.where(self.basis.multiplicities > 0, 1 / (self.Λ + self.λ), 0)
        if self.rest == "dropped":
            D[-1] = D[:, -1] = 0
        return D

    def precondition(self, V: Float[Tensor, "query d_out d_in"]) -> Float[Tensor, "query d_out d_in"]:
        """Return (G+λI)⁻¹ V, in the model's coordinates like V and in its memory.

        It is V/(σ+λ) plus a matrix of rank at most r_S + r_A. Computed in the dtype of the curvature, a few rows of one
        query at a time, because a copy in that dtype may not fit.
        """
        for v in V:
            self._preconditioned(v, v)
        return V

    def squared_norm(self, V: Float[Tensor, "d_out d_in"]) -> Float[Tensor, ""]:
        """Return ‖V‖² in the norm of the damped inverse, Vᵀ (G+λI)⁻¹ V, in float64."""
        v = in_float64(V)
        return (v * self._preconditioned(v, torch.empty_like(v))).sum()

    def scales(self) -> tuple["SubspaceScale", "SubspaceScale"]:
        """Return scales S and A of which S V A is about (G+λI)^−½ V: the inverse's means over rows and over columns."""
        D, (of_rows, of_columns) = self.inverse, self.basis.side_multiplicities
        rows, columns = D @ of_columns / of_columns.sum(), of_rows @ D / of_rows.sum()
        return (
            SubspaceScale(in_float64(self.basis.U_S), in_float64(rows).sqrt()),
            SubspaceScale(in_float64(self.basis.U_A), in_float64(columns).sqrt()),
        )

    def energies(self) -> Energies:
        """Return Λ/(Λ + λ) inside of U_S ⊗ U_A, and its sum outside."""
        whole = in_float64(self.Λ / (self.Λ + self.λ) * self.basis.multiplicities)
        within = whole[:-1, :-1].flatten()
        return Energies(within, max(0.0, float(whole.sum() - within.sum())))

    def whitening(self, kept: Int[Tensor, " kept"]) -> "LowRankWhitening":
        """Return what whitens gradients at these coordinates of the flattened [r_S·r_A] U_Sᵀ G U_A."""
        return LowRankWhitening(self, kept)

    def _preconditioned(
        self, v: Float[Tensor, "d_out d_in"], out: Float[Tensor, "d_out d_in"]
    ) -> Float[Tensor, "d_out d_in"]:
        """Write (G+λI)⁻¹ v to other memory or to that of v, a few rows at a time, and return it."""
        U_S, U_A, D = self.basis.U_S, self.basis.U_A, self.inverse
        σ = D[-1, -1]
        rows, columns = U_S.new_zeros(U_S.shape[1], v.shape[1]), U_A.new_zeros(len(v), U_A.shape[1])
        parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(v), ROWS_AT_ONCE)]
        for part in parts:
            some = v[part].to(self.Λ)
            rows.addmm_(U_S[part].T, some)
            columns[part] = some @ U_A
        C = rows @ U_A
        rows_rest, columns_rest = rows - C @ U_A.T, columns - U_S @ C
        of_S = (D[:-1, :-1] * C) @ U_A.T + D[:-1, -1:] * rows_rest - σ * rows
        of_A = (D[-1, :-1] - σ) * columns_rest
        for part in parts:
            out[part] = (σ * v[part].to(self.Λ)).addmm_(U_S[part], of_S).addmm_(of_A[part], U_A.T)
        return out

    def precondition_factors(self, V: Factors) -> Factors:
        """Return (G+λI)⁻¹ V in factors, of rank at most that of V + min(r_S, r_A).

        With L = L_r U_Sᵀ + L_⊥ and R = R_r U_Aᵀ + R_⊥, every term has L_⊥ or U_S on its left, and R_⊥ or U_A on its
        right, so the terms can be gathered by what they have on the side where U has fewer columns.
        """
        U_S, U_A, D = self.basis.U_S, self.basis.U_A, self.inverse
        L, L_rest = split(V.L.to(self.Λ), U_S)
        R, R_rest = split(V.R.to(self.Λ), U_A)
        within = D[:-1, :-1] * (L.mT @ R)
        if U_S.shape[1] <= U_A.shape[1]:
            left = torch.cat([L_rest, U_S.T.expand(len(V), -1, -1)], dim=1)
            of_rest = D[-1, -1] * R_rest + (D[-1, :-1] * R) @ U_A.T
            right = torch.cat([of_rest, within @ U_A.T + D[:-1, -1:] * (L.mT @ R_rest)], dim=1)
        else:
            right = torch.cat([R_rest, U_A.T.expand(len(V), -1, -1)], dim=1)
            of_rest = D[-1, -1] * L_rest + (D[:-1, -1] * L) @ U_S.T
            left = torch.cat([of_rest, within.mT @ U_S.T + D[-1, :-1, None] * (R.mT @ L_rest)], dim=1)
        return Factors(left.to(V.L), right.to(V.R))

    def inner_products(self, queries: SplitTokens, sequences: SplitTokens) -> Float[Tensor, "query sequence"]:
        """Return ⟨V, (G+λI)⁻¹ G_z⟩ of every query and sequence, from their tokens alone.

        Neither gradients of the size of the weights nor preconditioned ones are formed, and a query is kept as its own
        tokens: the least memory, and the fewest multiplications for few short queries (`SplitTokens.inner_products`).
        For scores in single precision it is enough to split the queries in float64 and round them after that: what is
        left of them is then orthogonal to U, so that rounding errors of sequences in U do not count.
        """
        return queries.inner_products(sequences, self.inverse)

    def whitened_squared_norms(
        self, squared_norms: Float[Tensor, "sequence rows columns"]
    ) -> Float[Tensor, " sequence"]:
        """Return vec(G)ᵀ (G+λI)⁻¹ vec(G) of each gradient over the whole space, exactly.

        Args:
            squared_norms: from `SplitTokens.squared_norms`.
        """
        return (squared_norms * self.inverse).sum((1, 2))

    def split(self, Ds: Float[Tensor, "sequence token d_out"], a: Float[Tensor, "sequence token d_in"]) -> SplitTokens:
        """Return each token's coordinates in U and the rest of it, in the tokens' precision.

        Single precision is enough for norms and for whitening, where nothing is multiplied by Λ/λ.
        """
        return (self._rounded if a.dtype == torch.float32 else self.basis).split(Ds, a)

    @cached_property
    def _rounded(self) -> LowRankBasis:
        """The basis in single precision."""
        return self.basis.to(self.basis.U_S.device, torch.float32)

    def self_products(
        self,
        Ds: Float[Tensor, "sequence token d_out"],
        a: Float[Tensor, "sequence token d_in"],
        _gradients: Callable[[], Float[Tensor, "sequence d_out d_in"]],
        rows: Rows | None = None,
    ) -> Float[Tensor, " sequence"]:
        """Return vec(G)ᵀ (G+λI)⁻¹ vec(G) of each sequence over the whole space, from its tokens alone.

        Args:
            Ds: gradients at the layer's outputs.
            a: the layer's inputs.
            _gradients: returns the sequences' gradients; they are not computed.
            rows: None: layers whose outputs are not rotated have no curvature of low rank.

        Raises:
            ValueError: there are rows.
        """
        if rows is not None:
            raise ValueError(_NO_ROWS)
        tokens = self.split(Ds, a)
        return self.whitened_squared_norms(tokens.squared_norms(tokens.gradients()))

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "LowRankCurvature":
        """Return the curvature on another device, and in another dtype if one is given."""
        return LowRankCurvature(self.basis.to(device, dtype), self.Λ.to(device=device, dtype=dtype), self.λ, self.rest)

    @property
    def coordinates(self) -> int:
        """How many coordinates a sketch can keep."""
        return self.Λ[:-1, :-1].numel()

    @property
    def device(self) -> torch.device:
        """The device of Λ."""
        return self.Λ.device

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return self.basis.shape


@dataclass(frozen=True)
class SubspaceScale:
    """A positive number for each kept eigenvector, and one for the rest of the space, in float64.

    Args:
        U: the eigenvectors.
        numbers: those of the eigenvectors, then that of the rest; 0 where there is no rest.
    """

    U: Float[Tensor, "width r"]
    numbers: Float[Tensor, " r_and_rest"]

    def apply(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Return the rows multiplied by it."""
        return self._times(rows, self.numbers)

    def undo(self, rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Return the rows multiplied by its inverse, of the rest as well where that is not 0."""
        return self._times(rows, torch.where(self.numbers > 0, 1 / self.numbers, 0))

    def _times(self, rows: Tensor, numbers: Tensor) -> Tensor:
        within, rest = split(rows.to(self.U), self.U)
        return rest * numbers[-1] + product(within * numbers[:-1], self.U.T)


@dataclass(frozen=True)
class LowRankWhitening:
    """(Λ + λ)^−½ ⊙ U_Sᵀ G U_A at a few coordinates.

    Args:
        curvature: the layer's curvature.
        kept: indices into the flattened [r_S·r_A].
    """

    curvature: LowRankCurvature
    kept: Int[Tensor, " kept"]

    @cached_property
    def _scale(self) -> Float[Tensor, " kept"]:
        return self.curvature.inverse[:-1, :-1].flatten()[self.kept].sqrt()

    def of_gradients(self, V: Float[Tensor, "query d_out d_in"]) -> Float[Tensor, "query kept"]:
        """Return the whitened gradients, which are given in the model's coordinates."""
        basis = self.curvature.basis
        within = torch.stack([basis.U_S.T @ product(v.to(basis.U_A), basis.U_A) for v in V]) if len(V) else V
        return within.flatten(1)[:, self.kept] * self._scale

    def of_tokens(
        self,
        Ds: Float[Tensor, "sequence token d_out"],
        a: Float[Tensor, "sequence token d_in"],
        _G: Float[Tensor, "sequence d_out d_in"],
        rows: Rows | None = None,
    ) -> tuple[Float[Tensor, "sequence kept"], Float[Tensor, " sequence"]]:
        """Return the whitened gradients of sequences, and vec(G)ᵀ (G+λI)⁻¹ vec(G) over the whole space.

        Args:
            Ds: gradients at the layer's outputs.
            a: the layer's inputs.
            _G: the sequences' gradients; they are not used.
            rows: None: layers whose outputs are not rotated have no curvature of low rank.
        """
        if rows is not None:
            raise ValueError(_NO_ROWS)
        tokens = self.curvature.split(Ds, a)
        within = tokens.gradients()
        norms = self.curvature.whitened_squared_norms(tokens.squared_norms(within))
        return within.flatten(1)[:, self.kept] * self._scale, norms
