"""Block-diagonal factors for wide layers (Grosse et al. 2023, Sec. 3: block-diagonal A and S).

A factor of width d in k blocks holds 1/k of the numbers of a whole one; decomposing it takes 1/k² of the operations.
Cutting A and S into blocks assumes that activations of different blocks are uncorrelated. Λ is measured in the
resulting eigenbasis and has the same shape as without blocks. A factor in one block is a plain matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class BlockDiagonal:
    """A square matrix that is zero outside of contiguous square blocks on its diagonal.

    It can be multiplied with tensors on either side, and with other such matrices that have the same blocks.
    """

    blocks: tuple[Tensor, ...]

    @property
    def widths(self) -> list[int]:
        """The widths of the blocks, in order."""
        return [len(block) for block in self.blocks]

    @property
    def T(self) -> "BlockDiagonal":  # noqa: N802  # as torch calls it
        """The transposed matrix."""
        return BlockDiagonal(tuple(block.T for block in self.blocks))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the blocks."""
        return self.blocks[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the blocks."""
        return self.blocks[0].device

    def __len__(self) -> int:
        return sum(self.widths)

    def __matmul__(self, X: Any) -> Any:
        """Return the product with a tensor [..., width, columns], or with a matrix of the same blocks."""
        if isinstance(X, BlockDiagonal):
            return BlockDiagonal(tuple(a @ b for a, b in zip(self.blocks, X.blocks, strict=True)))
        return torch.cat([a @ x for a, x in zip(self.blocks, torch.split(X, self.widths, dim=-2), strict=True)], dim=-2)

    def __rmatmul__(self, X: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Return the product of a tensor [..., width] with this matrix."""
        return torch.cat([x @ a for a, x in zip(self.blocks, torch.split(X, self.widths, dim=-1), strict=True)], dim=-1)

    def __truediv__(self, divisor: int) -> "BlockDiagonal":
        return BlockDiagonal(tuple(block / divisor for block in self.blocks))

    def diagonal(self) -> Float[Tensor, " width"]:
        """Return the entries on the diagonal."""
        return torch.cat([block.diagonal() for block in self.blocks])

    def to(self, *where: Any, **how: Any) -> "BlockDiagonal":
        """Return the matrix on another device or in another dtype; arguments are those of `torch.Tensor.to`."""
        return BlockDiagonal(tuple(block.to(*where, **how) for block in self.blocks))


def block_widths(width: int, blocks: int) -> list[int]:
    """Return the widths of contiguous blocks, wider ones first, which differ by at most one.

    No block is empty, unless the width is 0: then there is one.
    """
    blocks = max(1, min(blocks, width))
    return [width // blocks + (index < width % blocks) for index in range(blocks)]


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor | BlockDiagonal:
    """Return the matrix with these blocks; one block is the matrix itself."""
    return blocks[0] if len(blocks) == 1 else BlockDiagonal(tuple(blocks))


def blocks_of(M: Tensor | BlockDiagonal) -> tuple[Tensor, ...]:
    """Return the diagonal blocks of a matrix; a plain matrix is a single block."""
    return M.blocks if isinstance(M, BlockDiagonal) else (M,)
