"""Operations that torch's FlopCounterMode leaves out on a processor, counted from their shapes."""

from math import prod

import torch

ATEN = torch.ops.aten


def product_in_place(_total, left, right, **_):
    return 2 * left[0] * left[1] * right[1]


def attention(q, k, v, *_, **__):
    """q kᵀ, and its product with v."""
    sequences, heads, tokens, width = q
    return 2 * sequences * heads * tokens * k[2] * (width + v[3])


def attention_backward(_gradient, *shapes, **_):
    """q kᵀ is made again; then the gradients of v, of the weights, of q and of k."""
    return 5 * attention(*shapes) // 2


def product_with_transposed(rows, weight, *_, **__):
    return 2 * prod(rows) * weight[0]


LEFT_OUT_BY_TORCH = {
    torch.ops.mkldnn._linear_pointwise: product_with_transposed,
    ATEN.addmm_: product_in_place,
    ATEN._scaled_dot_product_flash_attention_for_cpu: attention,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}
