"""A sequence's gradient in and outside of the span of a few eigenvectors, from its tokens.

Nothing of the size of the layer's weights is formed for a sequence. The letters are those of `notation.py` and
`low_rank.py`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.ekfac import sequence_gradients
from influence_assets.maths.products import product

NUMBERS_AT_ONCE = 2**26
"""How many products of queries' tokens with sequences' tokens are in memory at once, in each of three matrices."""

ENTRIES_AT_ONCE = 2**20
"""How many entries of a sequence's gradient are in memory at a time where its norm is measured."""


@dataclass(frozen=True)
class NormOrder:
    """How the squared norms of a sequence's parts outside of U_S ⊗ U_A are computed, and the cost.

    Args:
        by_grams: by the products of tokens with one another, rather than by the entries of the gradient.
        multiplications: the multiplications for one sequence.
    """

    by_grams: bool
    multiplications: int


def norm_order(tokens: int, rests: tuple[int, int], kept: tuple[int, int]) -> NormOrder:
    """Return the cheapest order of measuring squared norms of one sequence, by counted multiplications.

    Args:
        tokens: length of the sequence.
        rests: d_out and d_in, or 0 on a side that has no rest.
        kept: r_S and r_A.
    """
    (rest_S, rest_A), (r_S, r_A) = rests, kept
    by_grams = tokens**2 * (rest_S + rest_A + r_S + r_A)
    by_entries = tokens * (rest_S * rest_A + r_S * rest_A + rest_S * r_A)
    return NormOrder(by_grams < by_entries, min(by_grams, by_entries))


@dataclass(frozen=True)
class SplitTokens:
    """A batch's tokens, split into their coordinates in U and what is left outside.

    A side that has no rest has a width of 0 there.

    Args:
        s: U_Sᵀ Ds of each token.
        a: U_Aᵀ a of each token.
        s_rest: (I − U_S U_Sᵀ) Ds.
        a_rest: (I − U_A U_Aᵀ) a.
    """

    s: Float[Tensor, "sequence token r_S"]
    a: Float[Tensor, "sequence token r_A"]
    s_rest: Float[Tensor, "sequence token rest_S"]
    a_rest: Float[Tensor, "sequence token rest_A"]

    def gradients(self) -> Float[Tensor, "sequence r_S r_A"]:
        """U_Sᵀ G U_A = Σ_t (U_Sᵀ Ds_t)(U_Aᵀ a_t)ᵀ; no gradient of the size of the weights is formed."""
        return sequence_gradients(self.s, self.a)

    def squared_norms(
        self, gradients: Float[Tensor, "sequence r_S r_A"] | None = None
    ) -> Float[Tensor, "sequence rows columns"]:
        """Return the bordered squared norms of each gradient's parts; they sum to ‖G‖².

        Row i of U_Sᵀ G (I − U_A U_Aᵀ) is Σ_t s_ti a_tᵀ, so its squared norm is s_iᵀ K_A s_i with K_A = a aᵀ [T, T] of
        the rest of a; the squared norm of rest ⊗ rest is Σ K_S ∘ K_A. For long sequences of narrow layers the gradient
        itself is cheaper, a few rows at a time (`norm_order`).

        Args:
            gradients: what `gradients` returns, if it is known.
        """
        within = (self.gradients() if gradients is None else gradients).square()
        rests, kept = (self.s_rest.shape[2], self.a_rest.shape[2]), (self.s.shape[2], self.a.shape[2])
        if norm_order(self.a.shape[1], rests, kept).by_grams:
            K_S, K_A = (torch.bmm(x, x.mT) for x in (self.s_rest, self.a_rest))
            S, A = ((torch.bmm(K, x) * x).sum(1) for K, x in ((K_A, self.s), (K_S, self.a)))
            rest = (K_S * K_A).sum((1, 2))
        else:
            S = torch.bmm(self.s.mT, self.a_rest).square().sum(2)
            A = torch.bmm(self.s_rest.mT, self.a).square().sum(1)
            rest = _squared_norms(self.s_rest, self.a_rest)
        below = torch.cat([A, rest[:, None]], dim=1)
        # Quadratic forms are not negative, but their rounding can be.
        return torch.cat([torch.cat([within, S[:, :, None]], dim=2), below[:, None]], dim=1).clamp_(min=0)

    def inner_products(
        self, others: "SplitTokens", D: Float[Tensor, "rows columns"]
    ) -> Float[Tensor, "query sequence"]:
        """⟨V_q, D G_s⟩ with a bordered D, of these tokens' gradients V and those of others, both split by one basis.

        With V = Σ_p Ds_p a_pᵀ and G = Σ_t Ds_t a_tᵀ, the part outside of U_S ⊗ U_A is a sum over p and t of products of
        tokens with one another, of which a pair takes p·T·(d_out + d_in + r_S + r_A + 2), and r_S·r_A more inside.
        """
        pairs = len(others.a) * others.a.shape[1] * self.a.shape[1]
        at_once = max(1, NUMBERS_AT_ONCE // max(1, pairs))
        parts = [
            self.take(slice(start, start + at_once))._inner_products(others, D)
            for start in range(0, len(self.a), at_once)
        ]
        return torch.cat(parts) if parts else self.a.new_zeros(0, len(others.a))

    def take(self, rows: slice) -> "SplitTokens":
        """Return some of the sequences."""
        return SplitTokens(self.s[rows], self.a[rows], self.s_rest[rows], self.a_rest[rows])

    def to(self, dtype: torch.dtype) -> "SplitTokens":
        """Return the tokens in another dtype."""
        return SplitTokens(self.s.to(dtype), self.a.to(dtype), self.s_rest.to(dtype), self.a_rest.to(dtype))

    def _inner_products(self, others: "SplitTokens", D: Tensor) -> Tensor:
        within = self.gradients().mul_(D[:-1, :-1]).flatten(1)
        # [query · p, sequence · t]
        K_S, K_A = _products(self.s_rest, others.s_rest), _products(self.a_rest, others.a_rest)
        outside = _products(self.s * D[:-1, -1], others.s).mul_(K_A)
        outside += K_S.mul_(K_A.mul_(D[-1, -1]).add_(_products(self.a * D[-1, :-1], others.a)))
        by_sequence = outside.view(len(self.a), self.a.shape[1], len(others.a), others.a.shape[1]).sum((1, 3))
        return product(within, others.gradients().flatten(1).T) + by_sequence


def _products(
    x: Float[Tensor, "query p width"], y: Float[Tensor, "sequence token width"]
) -> Float[Tensor, "rows columns"]:
    """Return the inner products of all tokens of one with all of the other."""
    return product(x.flatten(0, 1), y.flatten(0, 1).T)


def _squared_norms(
    s: Float[Tensor, "sequence token rest_S"], a: Float[Tensor, "sequence token rest_A"]
) -> Float[Tensor, " sequence"]:
    """‖Σ_t s_t a_tᵀ‖² of each sequence, a few rows at a time."""
    rows = max(1, ENTRIES_AT_ONCE // max(1, len(a) * a.shape[2]))
    total = a.new_zeros(len(a))
    for part in torch.split(s, rows, dim=2):
        total += torch.bmm(part.mT, a).square().sum((1, 2))
    return total


def split(
    x: Float[Tensor, "*batch width"], U: Float[Tensor, "width r"]
) -> tuple[Float[Tensor, "*batch r"], Float[Tensor, "*batch width"]]:
    """Return Uᵀ x and (I − U Uᵀ) x."""
    within = product(x, U)
    return within, x - product(within, U.T)
