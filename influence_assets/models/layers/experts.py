"""The experts of a mixture, as transformers keeps them: each matrix a slice of one tensor, for the tokens routed to it.

The rule covers every class that takes part in transformers' interface of experts, which describes it by flags: whether
there is a gate, whether there are biases, how weights are laid out. Each expert's matrices are layers of their own. To
see them, the rule computes the module's output itself, expert by expert, as that interface defines it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from influence_assets.models.layers.rule import AttributedLayer, LayerRule, Observe, with_bias

_FLAGS = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm", "_apply_gate", "_is_expert_parallel")
_WATCHED = "watched_experts"


class ExpertMatrix(nn.Module):
    """One matrix of one expert.

    Args:
        experts: the module that holds all of them.
        matrix: the name of the parameter that holds this matrix of every expert.
        expert: the expert's number.
    """

    def __init__(self, experts: nn.Module, matrix: str, expert: int) -> None:
        super().__init__()
        object.__setattr__(self, "experts", experts)  # the model holds it, not this view of it
        self.matrix = matrix
        self.expert = expert
        self.weight = getattr(experts, matrix)
        self.bias = getattr(experts, f"{matrix}_bias") if experts.has_bias else None
        self.routed: Routed | None = None


class Routed(NamedTuple):
    """The tokens that went through an expert in the last pass.

    Args:
        rows: which of the tokens, [token].
        tokens: how many tokens the module saw.
    """

    rows: Tensor
    tokens: int


class _Watch(NamedTuple):
    view: ExpertMatrix

    def remove(self) -> None:
        """Let the module compute for itself again once no matrix of it is watched."""
        experts: Any = self.view.experts
        watched = vars(experts)[_WATCHED]
        del watched[self.view.matrix, self.view.expert]
        if not watched:
            del vars(experts)[_WATCHED], experts.forward


class Experts(LayerRule):
    """The rule for all experts that transformers' interface of experts describes."""

    name = "experts"
    sees_selections = True

    def covers(self, module: nn.Module) -> bool:
        """See `LayerRule`."""
        if not all(hasattr(module, flag) for flag in _FLAGS):
            return False
        weights = [getattr(module, name, None) for name in _matrices(module)]
        return all(isinstance(W, Tensor) and W.ndim == 3 and W.is_floating_point() for W in weights)

    def layers(self, name: str, module: nn.Module) -> tuple[AttributedLayer, ...]:
        """Return the matrices of all experts, one expert after the other."""
        return tuple(
            AttributedLayer(f"{name}.{expert}.{matrix}", ExpertMatrix(module, matrix, expert), self)
            for expert in range(len(module.down_proj))  # type: ignore[arg-type]
            for matrix in _matrices(module)
        )

    def widths(self, module: Any) -> tuple[int, int]:
        """See `LayerRule`."""
        d_out, width = _weight(module.experts, module.matrix, module.expert).shape
        return d_out, width + int(module.bias is not None)

    def by_sequence(self, module: Any, values: Tensor, shape: tuple[int, int]) -> Tensor | None:
        """Return the values of the tokens that the expert saw at their places, and zeros at all others."""
        rows, tokens = module.routed
        if tokens != shape[0] * shape[1] or len(values) != len(rows):
            return None
        return values.new_zeros(tokens, values.shape[1]).index_copy(0, rows, values).view(*shape, -1)

    def inputs(self, module: Any, x: Tensor) -> Tensor:
        """Return a; the ones that a bias multiplies are zeros for the tokens that the expert did not see."""
        if module.bias is None:
            return x
        ones = x.new_ones(len(module.routed.rows), 1)
        seen = self.by_sequence(module, ones, (x.shape[0], x.shape[1]))
        assert seen is not None  # noqa: S101  # x was laid out in the same way
        return torch.cat([x, seen], dim=-1)

    def as_matrix(self, module: Any, gradients: Mapping[str, Tensor]) -> Tensor:
        """See `LayerRule`."""
        weight = gradients["weight"][module.expert]
        weight = weight.T if module.experts.is_transposed else weight
        return with_bias(weight, gradients["bias"][module.expert] if "bias" in gradients else None)

    def attach(self, module: Any, observe: Observe) -> _Watch:
        """See `LayerRule`."""
        watched = vars(module.experts).setdefault(_WATCHED, {})
        watched[module.matrix, module.expert] = module, observe
        module.experts.forward = partial(_forward, module.experts, watched)
        return _Watch(module)


def _matrices(experts: Any) -> tuple[str, str]:
    return ("gate_up_proj" if experts.has_gate else "up_proj"), "down_proj"


def _weight(experts: Any, matrix: str, expert: int) -> Tensor:
    """Return a matrix as [d_out, width]."""
    weight: Tensor = getattr(experts, matrix)[expert]
    return weight.T if experts.is_transposed else weight


def _forward(
    experts: Any,
    watched: Mapping[tuple[str, int], tuple[ExpertMatrix, Observe]],
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
) -> Tensor:
    """Return the weighted sum of the chosen experts' outputs for each token, as the module itself does.

    Args:
        experts: the module.
        watched: the views of its matrices that are attributed, and what observes them.
        hidden_states: [token, width].
        top_k_index: the experts that each token goes through, [token, choice].
        top_k_weights: the weights of their outputs, [token, choice].
    """
    into, out_of = _matrices(experts)
    total = torch.zeros_like(hidden_states)
    for expert in range(len(experts.down_proj)):
        rows, weights = _routed(top_k_index, top_k_weights, expert, len(experts.down_proj))

        def product(x: Tensor, matrix: str, expert: int = expert, rows: Tensor = rows) -> Tensor:
            bias = getattr(experts, f"{matrix}_bias")[expert] if experts.has_bias else None
            y = nn.functional.linear(x, _weight(experts, matrix, expert), bias)
            if (matrix, expert) not in watched:
                return y
            view, observe = watched[matrix, expert]
            view.routed = Routed(rows, len(hidden_states))
            return observe(x, y)

        h = product(hidden_states[rows], into)
        y = product(experts._apply_gate(h) if experts.has_gate else experts.act_fn(h), out_of)
        if experts.has_post_expert_norm:
            y = experts.post_expert_norm(y)
        total = total.index_add(0, rows, (y * weights[:, None]).to(total.dtype))
    return total


def _routed(top_k_index: Tensor, top_k_weights: Tensor, expert: int, experts: int) -> tuple[Tensor, Tensor]:
    """Return which tokens go through an expert, each once, and the weight of its output for each of them.

    Tensors without data have no routes: there each expert gets the same number of tokens.
    """
    if isinstance(top_k_index, FakeTensor):
        tokens, choices = top_k_index.shape
        rows = torch.arange(-(-tokens * choices // experts), device=top_k_index.device) % tokens
        return rows, top_k_weights[rows].sum(-1)
    is_chosen = top_k_index == expert
    (rows,) = torch.where(is_chosen.any(-1))
    return rows, (top_k_weights * is_chosen).sum(-1)[rows]  # some routers choose an expert twice for a token


LAYER_RULE = Experts()
