"""How much is kept of the factors of every layer: all, their diagonal blocks, or a few leading eigenvectors."""

from dataclasses import dataclass, replace

from influence_assets.maths.block_diagonal import block_widths
from influence_assets.maths.moments import tile_numbers
from influence_assets.maths.range_finder import RangeFinder
from influence_assets.maths.rows import OutputSide


@dataclass(frozen=True)
class CurvatureForm:
    """The form of the curvature, and from it what it takes of a layer of known shape.

    Args:
        blocks: the number of diagonal blocks that A and S are cut into (`block_diagonal.py`).
        rank: the number of leading eigenvectors that are kept of A and S (`low_rank.py`); None keeps all.
        seed: of what the leading eigenvectors are found with.
        has_S: whether there is a factor S; otherwise the outputs' side is left as it is (`rows.py`).
    """

    blocks: int = 1
    rank: int | None = None
    seed: int = 0
    has_S: bool = True

    def of_layer(self, outputs: OutputSide) -> "CurvatureForm":
        """Return the form of a layer with this side of outputs."""
        return replace(self, has_S=outputs == "factor")

    def widths(self, d_out: int, d_in: int) -> list[int]:
        """Return the widths of the diagonal blocks of A, and of S if there is one."""
        return [
            width for side in ((d_in, d_out) if self.has_S else (d_in,)) for width in block_widths(side, self.blocks)
        ]

    def kept(self, d_out: int, d_in: int) -> tuple[int, int]:
        """Return how many eigenvectors are kept of S and of A."""
        return (d_out, d_in) if self.rank is None else (min(self.rank, d_out), min(self.rank, d_in))

    def finder(self, width: int) -> RangeFinder:
        """Return what is measured of a factor of this width whose leading eigenvectors alone are kept.

        Raises:
            ValueError: all eigenvectors are kept.
        """
        if self.rank is None:
            raise ValueError("all eigenvectors are kept")
        return RangeFinder(width, self.rank, self.seed)

    def total_numbers(self, d_out: int, d_in: int) -> int:
        """Return how many numbers are summed of A and S over the sequences."""
        if self.rank is None:
            return sum(map(tile_numbers, self.widths(d_out, d_in)))
        return sum(self.finder(width).numbers for width in (d_in, d_out))

    def basis_numbers(self, d_out: int, d_in: int) -> int:
        """Return how many numbers the eigenvectors have."""
        if self.rank is None:
            return sum(width**2 for width in self.widths(d_out, d_in))
        r_S, r_A = self.kept(d_out, d_in)
        return d_out * r_S + d_in * r_A

    def eigenvalue_numbers(self, d_out: int, d_in: int) -> int:
        """Return how many numbers Λ has."""
        r_S, r_A = self.kept(d_out, d_in)
        return r_S * r_A if self.rank is None else (r_S + 1) * (r_A + 1)

    def statistics_numbers(self, d_out: int, d_in: int) -> int:
        """Return how many numbers are summed of a shard in a basis: Λ, and what its drift is computed from."""
        if self.rank is None:
            return self.total_numbers(d_out, d_in) + self.eigenvalue_numbers(d_out, d_in)
        return self.eigenvalue_numbers(d_out, d_in) + 2 + sum(map(tile_numbers, self.kept(d_out, d_in)))

    def coordinates(self, d_out: int, d_in: int) -> int:
        """Return how many coordinates of a whitened gradient a sketch can keep."""
        r_S, r_A = self.kept(d_out, d_in)
        return r_S * r_A

    def decomposition_bytes(self, d_out: int, d_in: int) -> int:
        """Return the most bytes that finding the eigenvectors of a factor takes, the factor included."""
        if self.rank is None:
            return max(6 * 8 * width**2 for width in self.widths(d_out, d_in))
        return max(self.finder(width).decomposition_bytes for width in (d_in, d_out))
