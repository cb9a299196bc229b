"""The code of a made-up model, to lie beside its weights: a GPT-2 whose MLP is made of layers of a made-up kind."""

import torch
from torch import nn
from transformers import GPT2LMHeadModel


class ScaledLinear(nn.Module):
    """y = s · (W x) + b, with a scale s that is not trained."""

    def __init__(self, width: int, d_out: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_out, width) * 0.3)
        self.bias = nn.Parameter(torch.randn(d_out) * 0.3)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x @ self.weight.T) + self.bias


class ScaledGPT2(GPT2LMHeadModel):
    def __init__(self, config) -> None:
        super().__init__(config)
        for index, block in enumerate(self.transformer.h):
            block.mlp.c_fc = ScaledLinear(config.n_embd, 4 * config.n_embd, 0.5 + index)
            block.mlp.c_proj = ScaledLinear(4 * config.n_embd, config.n_embd, 1.5)
