"""Query gradients, and what is made of them, as products of thin factors: V = Lᵀ R.

A query's gradient is Σ_t Ds_t a_tᵀ, so its tokens' output gradients and inputs are already its factors. A score ⟨P, G⟩
then needs no gradient of the size of the weights, of a query or of a sequence.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.ekfac import sequence_gradients
from influence_assets.maths.influence import layer_scores
from influence_assets.maths.products import product

NUMBERS_AT_ONCE = 2**26
"""How many numbers the products of tokens with factors may have in memory at once."""


@dataclass(frozen=True)
class Factors:
    """Matrices LᵀR of one layer; rows of zeros leave one of lower rank as it is."""

    L: Float[Tensor, "query rank d_out"]
    R: Float[Tensor, "query rank d_in"]

    def __len__(self) -> int:
        return len(self.L)

    @property
    def rank(self) -> int:
        """The number of rows of each factor."""
        return self.L.shape[1]

    def matrices(self) -> Float[Tensor, "query d_out d_in"]:
        """Return LᵀR of each query."""
        return sequence_gradients(self.L, self.R)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Factors":
        """Return the factors on another device, and in another dtype if one is given."""
        return Factors(self.L.to(device=device, dtype=dtype), self.R.to(device=device, dtype=dtype))


@dataclass(frozen=True)
class ScoringOrder:
    """How scores of one layer are computed, and the cost.

    Args:
        forms_gradients: whether matrices are formed, of queries and of sequences, rather than multiplied by factors.
        multiplications: the multiplications of all pairs of queries and sequences.
    """

    forms_gradients: bool
    multiplications: int


def scoring_order(P: Factors, tokens: int, sequences: int, *, largest_numbers: int | None = None) -> ScoringOrder:
    """Return the cheapest order of scoring sequences against queries in factors, by counted multiplications.

    By factors a pair costs T·rank·(d_out + d_in + 1). By matrices a sequence costs T·d_out·d_in, a query
    rank·d_out·d_in, and a pair d_out·d_in.

    Args:
        P: the queries.
        tokens: length of the sequences.
        sequences: how many will be scored.
        largest_numbers: the most numbers that the queries' matrices may have; None does not limit them.
    """
    queries, d_out, d_in = len(P), P.L.shape[2], P.R.shape[2]
    by_factors = queries * sequences * tokens * P.rank * (d_out + d_in + 1)
    by_matrices = d_out * d_in * (sequences * tokens + queries * P.rank + queries * sequences)
    fits = largest_numbers is None or queries * d_out * d_in <= largest_numbers
    forms_gradients = fits and by_matrices < by_factors
    return ScoringOrder(forms_gradients, by_matrices if forms_gradients else by_factors)


def in_cheapest_form(
    P: Factors, tokens: int, sequences: int, *, largest_numbers: int | None = None
) -> Factors | Float[Tensor, "query d_out d_in"]:
    """Return the queries in the form in which `scores_of_layer` needs the fewest multiplications.

    Arguments as in `scoring_order`.
    """
    order = scoring_order(P, tokens, sequences, largest_numbers=largest_numbers)
    return P.matrices() if order.forms_gradients else P


def scores_of_layer(
    P: Factors | Float[Tensor, "query d_out d_in"],
    Ds: Float[Tensor, "sequence token d_out"],
    a: Float[Tensor, "sequence token d_in"],
    N: int,
) -> Float[Tensor, "query sequence"]:
    """−⟨P_q, G_s⟩ / N with G_s = Σ_t Ds_t a_tᵀ, by matrices if P is given in them, else −Σ_t (L Ds_t)·(R a_t) / N.

    `in_cheapest_form` chooses.
    """
    if isinstance(P, Tensor):
        return layer_scores(P, sequence_gradients(Ds, a), N)
    at_once = max(1, NUMBERS_AT_ONCE // max(1, a.shape[0] * a.shape[1] * P.rank))
    parts = [
        _products(P.L[start : start + at_once], P.R[start : start + at_once], Ds, a)
        for start in range(0, len(P), at_once)
    ]
    return -torch.cat(parts) / N if parts else Ds.new_zeros(0, len(Ds))


def _products(
    L: Float[Tensor, "query rank d_out"],
    R: Float[Tensor, "query rank d_in"],
    Ds: Float[Tensor, "sequence token d_out"],
    a: Float[Tensor, "sequence token d_in"],
) -> Float[Tensor, "query sequence"]:
    """Σ_t (L Ds_t)·(R a_t)."""
    queries, rank, _ = L.shape
    products = product(Ds, L.flatten(0, 1).T).mul_(product(a, R.flatten(0, 1).T))
    return products.sum(1).view(len(Ds), queries, rank).sum(2).T
