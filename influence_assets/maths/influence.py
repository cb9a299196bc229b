"""Influence of training sequences on queries, for one linear layer; a score is the sum over layers.

I_f(z) = −∇f(θ)ᵀ (G + λI)⁻¹ ∇L(z, θ), divided by N (Koh & Liang 2017; Grosse et al. 2023, Eq. 5 and Sec. 2):
the first-order change of f, in nats, if z were added once more to the N training sequences; positive helps.
The letters are those of `notation.py`.
"""

from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.products import product


def layer_scores(
    P: Float[Tensor, "query d_out d_in"],
    G: Float[Tensor, "sequence d_out d_in"],
    N: int,
) -> Float[Tensor, "query sequence"]:
    """−⟨P_q, G_s⟩ / N, by one matrix product over the flattened gradients."""
    return -product(G.flatten(1), P.flatten(1).T).T / N


def token_scores(
    P: Float[Tensor, "d_out d_in"],
    Ds: Float[Tensor, "token d_out"],
    a: Float[Tensor, "token d_in"],
    N: int,
) -> Float[Tensor, " token"]:
    """−⟨P, Ds_t a_tᵀ⟩ / N: the part of a layer's score that enters through input token t (and predicts t + 1).

    Of one query and one sequence.
    """
    return -(product(Ds, P) * a).sum(-1) / N
