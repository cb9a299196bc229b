"""How alike the hidden states of two texts are: the cosine of the angle between their means.

The usual baseline without gradients; Hanawa et al. 2021 compare it with gradients. A text's states are those that
predict its tokens, and the mean over them represents the text. As only directions matter, sums take the place of means,
and add up.

A sequence's cosine is linear in its tokens once the length of their sum is known, and is divided among its documents:
document d of sequence z has xᵀ Σ_{t∈d} h_t / (‖x‖ ‖Σ_{t∈z} h_t‖), and the documents' shares sum to the cosine.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from influence_assets.maths.notation import in_float64


def state_sums(
    states: Float[Tensor, "token width"], groups: Int[Tensor, " token"], count: int
) -> Float[Tensor, "group width"]:
    """Return the sum of the states of each group of tokens, in float64; zero for a group without a token.

    Args:
        states: a hidden state for each token.
        groups: the group of each token, below `count`.
        count: the number of groups.
    """
    precise = in_float64(states)
    return precise.new_zeros(count, states.shape[1]).index_add_(0, groups.to(precise.device), precise)


def divided_similarities(
    X: Float[Tensor, "query width"], Y: Float[Tensor, "part width"], sequences: Int[Tensor, " part"]
) -> Float[Tensor, "query part"]:
    """Return each part's share of the cosine of its sequence with each query; zero where one of them has no token.

    Args:
        X: the sum of each query's states.
        Y: the sum of each part's states.
        sequences: the number of the sequence that each part belongs to.
    """
    at = sequences.to(Y.device)
    whole = Y.new_zeros(int(at.max()) + 1 if len(at) else 0, Y.shape[1]).index_add_(0, at, Y)
    return _shortened(X, X) @ _shortened(Y, whole[at]).T


def _shortened(X: Float[Tensor, "row width"], by: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
    """Return rows divided by the length of others; what has no length is zero, and stays so."""
    norms = by.norm(dim=1, keepdim=True)
    return X / torch.where(norms > 0, norms, torch.ones_like(norms))
