"""A made-up kind of layer, added from this one file: several matrices in one tensor, each for the tokens routed to it.

A layer rule for it names each matrix a layer, computes the module's output itself so as to see every matrix's part, and
gives zeros for the tokens that another matrix has.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from influence_assets.models.layers.rule import AttributedLayer, LayerRule, Observe


class Expert(nn.Module):
    """One of a module's matrices."""

    def __init__(self, experts: nn.Module, index: int) -> None:
        super().__init__()
        object.__setattr__(self, "experts", experts)  # not a submodule of its own
        self.weight = experts.weight  # [expert, d_out, width]
        self.index = index


@dataclass
class Watch:
    expert: Expert

    def remove(self) -> None:
        watched = vars(self.expert.experts)["watched"]
        del watched[self.expert.index]
        if not watched:
            del self.expert.experts.forward


class RoutedLinear(LayerRule):
    name = "routed_linear"

    def covers(self, module: nn.Module) -> bool:
        return type(module).__name__ == "RoutedLinear"

    def layers(self, name: str, module: nn.Module) -> tuple[AttributedLayer, ...]:
        return tuple(AttributedLayer(f"{name}.{e}", Expert(module, e), self) for e in range(len(module.weight)))

    def attach(self, module: Expert, observe: Observe) -> Watch:
        watched = vars(module.experts).setdefault("watched", {})
        watched[module.index] = observe
        module.experts.forward = partial(watched_forward, module.experts, watched)
        return Watch(module)

    def widths(self, module: Expert) -> tuple[int, int]:
        return tuple(module.weight.shape[1:])

    def inputs(self, module: Expert, x: Tensor) -> Tensor:
        return x

    def as_matrix(self, module: Expert, gradients: dict[str, Tensor]) -> Tensor:
        return gradients["weight"][module.index]


def watched_forward(experts: nn.Module, watched: dict[int, Observe], x: Tensor) -> Tensor:
    """What the module computes, expert by expert."""
    routes, outputs = experts.route(x)[..., None], 0
    for index, weight in enumerate(experts.weight):
        own = torch.where(routes == index, x, 0)
        output = own @ weight.T
        if index in watched:
            output = watched[index](own, output)
        outputs = outputs + torch.where(routes == index, output, 0)
    return outputs


LAYER_RULE = RoutedLinear()
