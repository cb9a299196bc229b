"""How alike the hidden states of two texts are: the cosine of the angle between their means.

The usual baseline without gradients; Hanawa et al. 2021 compare it with gradients. A text's states are those that
predict its tokens, and the mean over them represents the text.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from influence_assets.maths.notation import in_float64


def mean_states(
    states: Float[Tensor, "token width"], groups: Int[Tensor, " token"], count: int
) -> Float[Tensor, "group width"]:
    """Return the mean state of each group of tokens, in float64; zero for a group without a token.

    Args:
        states: a hidden state for each token.
        groups: the group of each token, below `count`.
        count: the number of groups.
    """
    precise = in_float64(states)
    at = groups.to(precise.device)
    sums = precise.new_zeros(count, states.shape[1]).index_add_(0, at, precise)
    return sums / torch.bincount(at, minlength=count).clamp(min=1)[:, None].to(sums.dtype)


def cosine_similarities(X: Float[Tensor, "query width"], Y: Float[Tensor, "text width"]) -> Float[Tensor, "query text"]:
    """Return xᵀy / (‖x‖ ‖y‖) of every pair; zero where either is zero, as nothing is known of it."""
    return _directions(X) @ _directions(Y).T


def _directions(X: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
    norms = X.norm(dim=1, keepdim=True)
    return X / torch.where(norms > 0, norms, torch.ones_like(norms))
