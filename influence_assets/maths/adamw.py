"""AdamW's step and the clipping of gradients as differentiable functions, as `torch.optim` takes them.

State and gradients have an entry for each parameter. No function changes what it is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_CLIPPING_EPSILON = 1e-6
"""That of `clip_grad_norm_`."""


@dataclass(frozen=True)
class AdamW:
    """The constants of AdamW (Loshchilov & Hutter 2019, Algorithm 2).

    Args:
        betas: β₁ and β₂, how much of the moments is kept.
        weight_decay: what is taken off a weight for each unit of the learning rate.
        epsilon: ε, which is outside of the root: m̂ / (√v̂ + ε).
    """

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    epsilon: float = 1e-8


@dataclass(frozen=True)
class AdamState:
    """The weights and the moments of the optimiser between two steps.

    Args:
        θ: the weights.
        m: the mean of gradients.
        v: the mean of squared gradients.
        count: the steps taken.
    """

    θ: Tensors
    m: Tensors
    v: Tensors
    count: int


def clipping_factor(g: Mapping[str, Tensor], largest_norm: float) -> Tensor:
    """Return what gradients are multiplied with so that their norm is at most `largest_norm`, as torch has it."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in g.values()]))
    return torch.clamp(largest_norm / (norm + _CLIPPING_EPSILON), max=1.0)


def adamw_step(state: AdamState, g: Mapping[str, Tensor], rate: float, adamw: AdamW) -> AdamState:
    """Return the state after a step.

    √v̂ has no derivative at v = 0, where a weight has had no gradient yet: there it is taken as 0. A weight without a
    gradient does not depend on what training weighs, so that what it is multiplied with would be 0 anyway.

    Args:
        state: the state before.
        g: the gradients that the step is taken with, already clipped.
        rate: the learning rate.
        adamw: the constants.
    """
    (β_1, β_2), count = adamw.betas, state.count + 1
    m = {name: state.m[name] * β_1 + each * (1 - β_1) for name, each in g.items()}
    v = {name: state.v[name] * β_2 + each * each * (1 - β_2) for name, each in g.items()}
    θ = {
        name: weight * (1 - rate * adamw.weight_decay)
        - rate * (m[name] / (1 - β_1**count)) / root_of_mean_square(v[name], count, adamw)
        for name, weight in state.θ.items()
    }
    return AdamState(θ, m, v, count)


def root_of_mean_square(v: Tensor, count: int, adamw: AdamW) -> Tensor:
    """Return √v̂ + ε after `count` steps, by which AdamW divides; its derivative at v = 0 is 0."""
    is_positive = v > 0
    root = (torch.where(is_positive, v, torch.ones_like(v)) / (1 - adamw.betas[1] ** count)).sqrt()
    return torch.where(is_positive, root, torch.zeros_like(root)) + adamw.epsilon
