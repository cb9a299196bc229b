"""The model's own linear maps while its weights are frozen: no weight gradient, and the faster product on processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from influence_assets.maths.products import product


@contextmanager
def frozen_products(model: PreTrainedModel) -> Iterator[None]:
    """While entered, the frozen linear maps that lie on a processor multiply by `maths.products`.

    Modules whose forward somebody else has replaced, as accelerate does, are left alone.
    """
    replaced = [module for module in model.modules() if _is_frozen_linear(module)]
    for module in replaced:
        is_conv, bias = isinstance(module, Conv1D), module.bias
        matrix = module.weight if is_conv else module.weight.T
        module.forward = lambda x, M=matrix, b=bias: _FrozenProduct.apply(x, M, b)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


class _FrozenProduct(torch.autograd.Function):
    """y = x M + b, of which only x has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, M: Tensor, b: Tensor | None) -> Tensor:
        ctx.M = M
        return product(x, M, bias=b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return product(gradient, ctx.M.T), None, None


def _is_frozen_linear(module: nn.Module) -> bool:
    if type(module) not in (nn.Linear, Conv1D) or "forward" in vars(module):
        return False
    return all(p.device.type == "cpu" and not p.requires_grad for p in module.parameters())
