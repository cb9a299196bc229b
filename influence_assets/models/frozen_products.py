"""A model's own linear maps while its weights are frozen: no weight gradients, and the faster product on processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
        weight: Any = module.weight
        matrix = weight if isinstance(module, Conv1D) else weight.T
        module.forward = partial(_product, matrix, module.bias)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _product(M: Tensor, b: Any, x: Tensor) -> Tensor:
    found: Tensor = _FrozenProduct.apply(x, M, b)  # type: ignore[no-untyped-call]
    return found


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
