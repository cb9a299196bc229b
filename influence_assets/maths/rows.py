"""Rows of a layer's matrix that stand for words: the output's side of an embedding, which nothing rotates.

Such a matrix [d_out, d_in] has a row for each word, far more than there are tokens in a sequence. So gradients of it
are made a few rows at a time, and where only words that a batch holds can have any, of these rows alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

OutputSide = Literal["factor", "words", "looked_up"]
"""What a layer's output is to its curvature: `factor`, a side with the covariance S, rotated by its eigenvectors;
`words`, one row for each word, left as it is; `looked_up`, the same, with a gradient in the rows of a sequence's own
tokens alone."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a matrix.

    Args:
        which: a slice with a start and an end, or ascending indices.
        whole: how many rows the matrix has.
    """

    which: slice | Int[Tensor, " row"]
    whole: int

    def __len__(self) -> int:
        return self.which.stop - self.which.start if isinstance(self.which, slice) else len(self.which)

    @property
    def recurs(self) -> bool:
        """Whether other batches have a block of as many rows."""
        return isinstance(self.which, slice)

    @property
    def is_first(self) -> bool:
        """Whether no other block of rows comes before."""
        return self.which.start == 0 if isinstance(self.which, slice) else True

    def of(self, M: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch row d_in"]:
        """Return these rows of matrices; a view of them if they are a slice."""
        return M[..., self.which, :]

    def of_outputs(self, Ds: Float[Tensor, "*batch d_out"]) -> Float[Tensor, "*batch row"]:
        """Return the coordinates of output gradients that belong to these rows."""
        return Ds[..., self.which]

    def add_to(self, total: Float[Tensor, "d_out d_in"], values: Float[Tensor, "row d_in"]) -> None:
        """Add values to these rows of a matrix."""
        if isinstance(self.which, slice):
            total[self.which] += values
        else:
            total.index_add_(0, self.which, values.to(total.dtype))

    def places(self, indices: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Return at which place among these rows each row of the matrix is; −1 if it is none of them."""
        if isinstance(self.which, slice):
            inside = (indices >= self.which.start) & (indices < self.which.stop)
            return torch.where(inside, indices - self.which.start, -1)
        if not len(self.which):
            return torch.full_like(indices, -1)
        found = torch.searchsorted(self.which, indices).clamp_(max=len(self.which) - 1)
        return torch.where(self.which[found] == indices, found, -1)


def slices_of_rows(whole: int, at_once: int) -> list[Rows]:
    """Return all rows of a matrix, at most so many at a time."""
    return [Rows(slice(start, min(start + at_once, whole)), whole) for start in range(0, whole, max(1, at_once))]
