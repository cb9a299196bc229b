"""A model's own matrix products while its weights are frozen: without weight gradients, and faster on processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from influence_assets.maths.products import product
from influence_assets.models.layers.rule import FrozenMap, rule_of


@contextmanager
def frozen_products(model: PreTrainedModel) -> Iterator[None]:
    """Make frozen layers on a processor that are a product and a bias use `maths.products` inside the block.

    Modules whose forward was already replaced, as accelerate does, are left alone.
    """
    replaced = [(module, frozen_map) for module in model.modules() if (frozen_map := _frozen_map(module)) is not None]
    for module, (matrix, bias) in replaced:
        module.forward = partial(_product, matrix, bias)
    try:
        yield
    finally:
        for module, _ in replaced:
            del module.forward


def _product(M: Tensor, b: Tensor | None, x: Tensor) -> Tensor:
    y: Tensor = _FrozenProduct.apply(x, M, b)  # type: ignore[no-untyped-call]
    return y


class _FrozenProduct(torch.autograd.Function):
    """y = x M + b with a gradient for x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, M: Tensor, b: Tensor | None) -> Tensor:
        ctx.M = M
        return product(x, M, bias=b).data  # not a view, so that the model may change it in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return product(gradient, ctx.M.T), None, None


def _frozen_map(module: nn.Module) -> FrozenMap | None:
    if "forward" in vars(module) or not all(
        p.device.type == "cpu" and not p.requires_grad for p in module.parameters()
    ):
        return None
    rule = rule_of(module)
    return None if rule is None else rule.frozen_map(module)
