"""The leading eigenvectors of A and S from one pass, without forming a d × d matrix.

For the rows x of a pass (a layer's inputs or output gradients) and a fixed random matrix Ω [d, s], s much smaller than
d, a shard keeps

    Y = Σ x (xᵀ Ω) = M Ω  [d, s],   and the trace Σ ‖x‖²,

which add up over batches, shards and machines as M = Σ x xᵀ itself does. The eigenvectors come from the Nyström
approximation Y (Ωᵀ Y)⁺ Yᵀ of M, in its stabilised form (Tropp, Yurtsever, Udell & Cevher 2017, arXiv 1706.05736,
Alg. 3): with a small shift ν, Y_ν = Y + ν Ω, Ωᵀ Y_ν = Cᵀ C, and the singular value decomposition of Y_ν C⁻¹ = U Σ Wᵀ,
M ≈ U max(Σ² − ν, 0) Uᵀ.

**Ω** is Gaussian, and depends on d, the seed and the column alone: a wider Ω begins with the columns of a narrower one.
Its entries are representable in single precision, so that passes in either precision sum with the same matrix.

**Columns.** s = 3r + 16. From the middle of the spectrum on, a sketch cannot tell eigenvectors apart, and activations'
spectra fall slowly (figures in docs/log.md). A symmetric matrix has about d²/2 numbers of its own, so where s is more
than half of d, the sketch would hold no fewer: then Ω is the identity, Y is M, and the decomposition is exact.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.block_diagonal import blocks_of
from influence_assets.maths.ekfac import eigendecomposition
from influence_assets.maths.moments import GramAccumulator, SecondMoment, tile_numbers
from influence_assets.maths.notation import device_of_sums, in_float64
from influence_assets.maths.random_words import random_words, shifted

OVERSAMPLING = 3, 16
"""Columns of Ω for each eigenvector that is kept, and for all of them together."""

_MOST_RAISES = 20
"""How many times the shift is raised tenfold."""


@dataclass(frozen=True)
class RangeFinder:
    """What is measured of a factor in order to find its leading eigenvectors.

    Args:
        width: d, the factor's width.
        rank: number of eigenvectors to find; no more than `width` are.
        seed: of Ω.
    """

    width: int
    rank: int
    seed: int = 0

    @property
    def kept(self) -> int:
        """The number of eigenvectors that are found."""
        return min(self.rank, self.width)

    @property
    def is_whole(self) -> bool:
        """Whether the factor itself is summed, because a sketch would not be smaller."""
        return 2 * self._sketched > self.width

    @property
    def columns(self) -> int:
        """The number of columns of Y."""
        return self.width if self.is_whole else self._sketched

    @property
    def numbers(self) -> int:
        """How many numbers a shard sums: those of Y, or of the factor's tiles, and the trace."""
        return 1 + (tile_numbers(self.width) if self.is_whole else self.width * self.columns)

    @property
    def decomposition_bytes(self) -> int:
        """The most bytes that finding the eigenvectors takes, the sums included."""
        return 8 * 8 * self.width * self.columns

    @property
    def _sketched(self) -> int:
        each, more = OVERSAMPLING
        return each * self.rank + more

    def test_matrix(self, like: Tensor) -> Float[Tensor, "width columns"]:
        """Return Ω, the random matrix or the identity, in the dtype and on the device of another tensor."""
        if self.is_whole:
            return torch.eye(self.width, dtype=like.dtype, device=like.device)
        return _placed_gaussian_matrix(self.width, self.columns, self.seed, like.dtype, like.device)


@lru_cache(maxsize=32)
def _placed_gaussian_matrix(
    width: int, columns: int, seed: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "width columns"]:
    """Return a matrix that all layers with factors of one width share."""
    return gaussian_matrix(width, columns, seed).to(device, dtype)


def gaussian_matrix(width: int, columns: int, seed: int) -> Float[Tensor, "width columns"]:
    """Return independent standard normal numbers, in float64 but rounded to what float32 can represent.

    By Box & Muller (1958): √(−2 ln u) cos(2π v) of two uniform numbers.

    Args:
        width: the number of rows.
        columns: the number of columns; more of them leave the first ones as they are.
        seed: a signed 64-bit integer.
    """
    places = torch.arange(columns)[None, :] * width + torch.arange(width)[:, None]
    stream = int(random_words(seed, torch.tensor(width)))
    u, v = (
        (shifted(random_words(stream, 2 * places + which), 11) + 1).double() * 2.0**-53  # in (0, 1]
        for which in (0, 1)
    )
    return ((-2 * u.log()).sqrt() * (2 * math.pi * v).cos()).float().double()


@dataclass(frozen=True)
class RangeSketch:
    """Y = M Ω and the trace of M, as totals over tokens."""

    Y: SecondMoment[Tensor]
    trace: SecondMoment[Tensor]


class RangeAccumulator:
    """Sums Σ x (xᵀ Ω) and Σ ‖x‖² in place over many batches.

    Args:
        finder: what is measured.
        dtype: the dtype of the sums; by default that of the first rows. Sums over many shards absorb those of a shard.
    """

    def __init__(self, finder: RangeFinder, dtype: torch.dtype | None = None) -> None:
        self._finder = finder
        self._dtype = dtype
        self._gram = GramAccumulator(dtype=dtype)
        self._Y: Tensor | None = None
        self._trace: Tensor | None = None
        self._count = 0

    def add(self, rows: Float[Tensor, "n width"], count: int | None = None) -> None:
        """Add x (xᵀ Ω) of each row; arguments as in `GramAccumulator`."""
        if self._trace is None:
            self._trace = rows.new_zeros((), dtype=self._dtype)
        self._trace += rows.square().sum()
        self._count += len(rows) if count is None else count
        if self._finder.is_whole:
            self._gram.add(rows)
            return
        Ω = self._finder.test_matrix(rows)
        if self._Y is None:
            self._Y = torch.zeros_like(Ω, dtype=self._dtype)
        self._Y.addmm_(rows.T, rows @ Ω)

    def absorb(self, other: "RangeAccumulator") -> None:
        """Add the sums of another accumulator of the same finder, as in `GramAccumulator`."""
        if other._trace is None:
            return
        if self._trace is None:
            dtype = self._dtype or other._trace.dtype
            device = device_of_sums(other._trace.device) if dtype == torch.float64 else other._trace.device
            self._trace = torch.zeros((), dtype=dtype, device=device)
        self._trace += other._trace.to(self._trace.device)
        self._count += other._count
        self._gram.absorb(other._gram)
        if other._Y is not None:
            if self._Y is None:
                self._Y = torch.zeros_like(other._Y, dtype=self._trace.dtype, device=self._trace.device)
            self._Y += other._Y.to(self._Y.device)

    def clear(self) -> None:
        """Set all sums to zero, and use their memory again."""
        self._gram.clear()
        for total in (self._Y, self._trace):
            if total is not None:
                total.zero_()
        self._count = 0

    def of_width(self, width: int) -> "RangeAccumulator":
        """Return this accumulator, or one with sums of zero if nothing has been added yet."""
        if self._trace is not None:
            return self
        zero = RangeAccumulator(self._finder, self._dtype)
        zero.add(torch.zeros(0, width, dtype=self._dtype))
        return zero

    def packed(self) -> Float[Tensor, " numbers"]:
        """Return all sums as one vector, from which `from_packed` restores the accumulator.

        Raises:
            ValueError: nothing has been added.
        """
        if self._trace is None:
            raise ValueError("no batch has been added")
        sums = self._gram.packed() if self._Y is None else self._Y.flatten()
        return torch.cat([self._trace[None], sums])

    @classmethod
    def from_packed(cls, vector: Float[Tensor, " numbers"], finder: RangeFinder, count: int) -> "RangeAccumulator":
        """Return the accumulator whose sums `packed` returned, in the memory of the vector.

        Raises:
            ValueError: the vector is not that of such an accumulator.
        """
        if len(vector) != finder.numbers:
            raise ValueError(f"{len(vector)} numbers are not the {finder.numbers} of a factor of width {finder.width}")
        accumulator = cls(finder, vector.dtype)
        accumulator._trace, accumulator._count = vector[0], count
        if finder.is_whole:
            accumulator._gram = GramAccumulator.from_packed(vector[1:], finder.width, 1, count)
        else:
            accumulator._Y = vector[1:].view(finder.width, finder.columns)
        return accumulator

    def sketch(self) -> RangeSketch:
        """Return the sketch of everything added so far.

        Raises:
            ValueError: nothing has been added.
        """
        if self._trace is None:
            raise ValueError("no batch has been added")
        (Y,) = blocks_of(self._gram.moment().total) if self._Y is None else (self._Y,)
        return RangeSketch(SecondMoment(Y, self._count), SecondMoment(self._trace, self._count))


@dataclass(frozen=True)
class LeadingEigenvectors:
    """The leading eigenvectors of a factor, by descending eigenvalue.

    Args:
        U: orthonormal columns.
        eigenvalues: of the mean over tokens.
        trace: the sum of all of the factor's eigenvalues, kept or not.
    """

    U: Float[Tensor, "width kept"]
    eigenvalues: Float[Tensor, " kept"]
    trace: float

    def energy(self) -> float:
        """Return the share of the trace that the eigenvectors hold, 0 to 1; 1 if the trace is zero."""
        return float(self.eigenvalues.sum()) / self.trace if self.trace > 0 else 1.0


def leading_eigenvectors(sketch: RangeSketch, finder: RangeFinder) -> LeadingEigenvectors:
    """Return the leading eigenvectors of the factor that was sketched, in float64.

    Raises:
        ValueError: the sketch is not finite.
    """
    Y, trace = in_float64(sketch.Y.mean()), float(sketch.trace.mean())
    if finder.is_whole:
        ascending, Q = eigendecomposition(Y)
        eigenvalues, U = ascending.flip(0), blocks_of(Q)[0].flip(1)
    else:
        eigenvalues, U = _nystrom(Y, finder.test_matrix(Y))
    return LeadingEigenvectors(U[:, : finder.kept].contiguous(), eigenvalues[: finder.kept].contiguous(), trace)


def _nystrom(
    Y: Float[Tensor, "width columns"], Ω: Float[Tensor, "width columns"]
) -> tuple[Float[Tensor, " columns"], Float[Tensor, "width columns"]]:
    """Return the eigenvalues and eigenvectors of the stabilised Nyström approximation, by descending eigenvalue."""
    if not bool(torch.isfinite(Y).all()):
        raise ValueError("a covariance is not finite: a loss or an activation of the model overflowed")
    B = Ω.T @ Y
    # B is symmetric but for the rounding of the sums in Y, which the shift must exceed; Ωᵀ Ω is about d · I.
    rounding = (B - B.T).norm() / len(Ω)
    ν = rounding + torch.finfo(torch.float64).eps * Y.norm()
    if float(ν) == 0:  # nothing was summed: any orthonormal columns do
        return Y.new_zeros(Y.shape[1]), torch.linalg.qr(Ω).Q
    C, ν = _factorised((B + B.T) / 2, Ω.T @ Ω, ν)
    shifted_Y = Y + ν * Ω
    U, Σ, _ = torch.linalg.svd(torch.linalg.solve_triangular(C, shifted_Y, upper=True, left=False), full_matrices=False)
    return Σ.square() - ν, U


def _factorised(
    B: Float[Tensor, "columns columns"], ΩΩ: Float[Tensor, "columns columns"], ν: Float[Tensor, ""]
) -> tuple[Float[Tensor, "columns columns"], Float[Tensor, ""]]:
    """Return C with Cᵀ C = B + ν Ωᵀ Ω, and ν, which is raised until there is one."""
    for _ in range(_MOST_RAISES):
        C, failed = torch.linalg.cholesky_ex(B + ν * ΩΩ, upper=True)
        if not int(failed):
            return C, ν
        ν = 10 * ν
    raise ValueError("a covariance is not positive semi-definite: its sums have lost all precision")
