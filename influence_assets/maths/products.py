"""Matrix products on CPUs, with the faster of the two libraries that torch includes.

torch's own `@` calls MKL for float32. oneDNN, which torch includes too but otherwise uses only for half precision, is
up to a fifth faster if MKL is not tuned for the processor or the widths are odd, like those of layers with a bias, and
twice as fast if one side has only a few rows (figures in docs/log.md). For wide layers the machine at hand decides
(`models/kernels.py`). Where oneDNN does not apply, `@` is used.
"""

from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.block_diagonal import BlockDiagonal
from influence_assets.maths.identity import Identity
from influence_assets.maths.kernels import chosen

_ROWS_WORTH_A_COPY = 2048
"""From this many rows on, copying the other matrix into the layout that oneDNN prefers is worthwhile."""


def product(
    x: Float[Tensor, "*batch k"],
    M: Float[Tensor, "k m"] | BlockDiagonal | Identity,
    *,
    bias: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, "*batch m"]:
    """Return x M, plus a bias if there is one; not differentiable, since only frozen values are multiplied here.

    It is fastest if M is laid out column by column, as `columnwise` returns it.
    """
    if not isinstance(M, Tensor):
        return x @ M if bias is None else x @ M + bias
    if not _is_for_onednn(x, M):
        return x @ M if bias is None else torch.addmm(bias, x.reshape(-1, len(M)), M).view(*x.shape[:-1], M.shape[1])
    weight = M.T
    if not weight.is_contiguous() and x.numel() >= _ROWS_WORTH_A_COPY * x.shape[-1]:
        weight = weight.contiguous()
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def left_product(Q: Float[Tensor, "n k"] | BlockDiagonal | Identity, M: Float[Tensor, "k m"]) -> Float[Tensor, "n m"]:
    """Return Q M; M is first copied into another layout if that is faster."""
    if not isinstance(Q, Tensor):
        left: Tensor = Q @ M
        return left
    return product(Q, columnwise(M) if _is_for_onednn(Q, M) else M)


Matrix = TypeVar("Matrix", Tensor, BlockDiagonal, Identity)


def columnwise(M: Matrix) -> Matrix:
    """Return the matrix laid out in memory column by column."""
    if isinstance(M, BlockDiagonal):
        return BlockDiagonal(tuple(block.T.contiguous().T for block in M.blocks))
    return M.T.contiguous().T if isinstance(M, Tensor) else M


@cache
def _has_onednn() -> bool:
    """Return whether torch has the undocumented operator; without it, everything is multiplied by `@`."""
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_for_onednn(x: Tensor, M: Tensor) -> bool:
    return (
        type(x) is Tensor  # not a subclass without data, such as a fake tensor
        and x.device.type == M.device.type == "cpu"
        and x.dtype == M.dtype == torch.float32
        and chosen().products == "onednn"
        and _has_onednn()
        and not (torch.is_grad_enabled() and (x.requires_grad or M.requires_grad))
        and x.numel() > 0
        and M.numel() > 0
        # For other layouts oneDNN has only a reference implementation, which is a thousand times slower.
        and x.is_contiguous()
        and (M.is_contiguous() or M.T.is_contiguous())
    )
