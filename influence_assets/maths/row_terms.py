"""The terms of an embedding's gradients, which have a row for each word.

A token that goes in gives the gradient at its embedding to one row; a token that is predicted gives the hidden state
before it, times the gradient at the logits, to all rows. The letters are those of `notation.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from influence_assets.maths.curvature import Basis
from influence_assets.maths.ekfac import sequence_gradients
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.outer_products import OuterProducts
from influence_assets.maths.products import product
from influence_assets.maths.rows import Rows, slices_of_rows

ROWS_AT_ONCE = 2**20
_ROWS_AT_ONCE_ON_DEVICE = 2**27
"""How many numbers of a batch's gradients are made at once where they are made a few rows at a time: on a processor
they stay in its cache; a GPU needs large products."""

TERMS_A_TOKEN = 3
"""The most vectors that a token has in an embedding: one where it is looked up, two where it predicts."""

IGNORED = -100
"""The label of a position that carries no loss (torch's own convention)."""


@dataclass(frozen=True)
class RowTerms(GradientTerms):
    """G = Σ_t Ds_t a_tᵀ + Σ_st onehot(rows_st) x_stᵀ: the terms of an embedding, whose output's side is not rotated.

    Args:
        rows: the row that each vector is added to, for several sides with one vector for each token.
        x: the vectors.
        Ds: gradients at the logits, or their part that reaches all words; without tokens if there are none.
        a: what goes into the head, likewise.
    """

    rows: Int[Tensor, "sequence side token"]
    x: Float[Tensor, "sequence side token d_in"]
    Ds: Float[Tensor, "sequence dense d_out"]
    a: Float[Tensor, "sequence dense d_in"]
    _rotated: dict[int, "RowTerms"] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def looked_up(
        cls, tokens: Int[Tensor, "sequence token"], x: Float[Tensor, "sequence token d_in"], words: int
    ) -> "RowTerms":
        """Return the terms of tokens that go in, given the gradients at their embeddings."""
        return cls(tokens[:, None], x[:, None], x.new_zeros(len(x), 0, words), x[:, :0])

    @classmethod
    def spoken(cls, Ds: Float[Tensor, "sequence token d_out"], h: Float[Tensor, "sequence token d_in"]) -> "RowTerms":
        """Return the terms of a head, given the gradients at the logits and what goes into it."""
        none = torch.zeros(len(h), 0, h.shape[1], dtype=torch.long, device=h.device)
        return cls(none, h.new_zeros(*none.shape, h.shape[2]), Ds, h)

    @classmethod
    def of_likelihoods(
        cls,
        p: Float[Tensor, "sequence token d_out"],
        h: Float[Tensor, "sequence token d_in"],
        labels: Int[Tensor, "sequence token"],
        sign: float,
    ) -> "RowTerms":
        """Return the terms of a head of sign · Σ log p(label), whose gradient at the logits is sign · (onehot − p).

        Args:
            p: the probabilities of all words; 0 at positions that do not count.
            h: what goes into the head.
            labels: the labels; IGNORED at positions that do not count.
            sign: of the log-likelihood.
        """
        x = (sign * h).masked_fill_((labels == IGNORED)[..., None], 0)
        return cls(labels.clamp(min=0)[:, None], x[:, None], p, -sign * h)

    @classmethod
    def summed(cls, parts: Sequence["RowTerms"]) -> "RowTerms":
        """Return the terms of several parts of a gradient together."""
        rows, x = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("rows", "x"))
        dense = [part for part in parts if part.Ds.shape[1]] or parts[:1]
        if len(dense) == 1:  # not copied: they are large
            return cls(rows, x, dense[0].Ds, dense[0].a)
        return cls(rows, x, torch.cat([part.Ds for part in dense], dim=1), torch.cat([part.a for part in dense], dim=1))

    def row_blocks(self) -> Sequence[Rows | None]:
        """Return all rows, some at a time; or at once those that vectors are added to, if no other has a gradient."""
        words = self.shape[0]
        if not self.Ds.shape[1]:
            return [Rows(torch.unique(self.rows), words)]
        at_once = ROWS_AT_ONCE if self.a.device.type == "cpu" else _ROWS_AT_ONCE_ON_DEVICE
        return list(slices_of_rows(words, at_once // max(1, self.a.shape[0] * self.a.shape[2])))

    def gradients(
        self,
        basis: Basis | None = None,
        *,
        S: bool = True,  # noqa: ARG002  # the outputs' side is not rotated
        A: bool = True,
        rows: Rows | None = None,
        out: Float[Tensor, "sequence row d_in"] | None = None,
    ) -> Float[Tensor, "sequence row d_in"]:
        """See `GradientTerms`."""
        terms = self if basis is None or not A else self._in_basis(basis)
        return terms._summed(Rows(slice(0, self.shape[0]), self.shape[0]) if rows is None else rows, out)

    def _in_basis(self, basis: Basis) -> "RowTerms":
        """Return the terms with rotated inputs, which all blocks of rows have in common."""
        if id(basis) not in self._rotated:
            x, a = basis.rotated_inputs(self.x), basis.rotated_inputs(self.a)
            self._rotated[id(basis)] = RowTerms(self.rows, x, self.Ds, a)
        return self._rotated[id(basis)]

    def _summed(self, rows: Rows, out: Tensor | None) -> Float[Tensor, "sequence row d_in"]:
        shape = len(self), len(rows), self.shape[1]
        if self.Ds.shape[1]:
            G = sequence_gradients(rows.of_outputs(self.Ds), self.a, out=out)
        else:
            G = self.x.new_zeros(shape) if out is None else out.zero_()
        places = rows.places(self.rows)
        inside = places >= 0
        firsts = torch.arange(len(self), device=places.device)[:, None, None] * len(rows)
        G.view(-1, shape[2]).index_add_(0, (places + firsts)[inside], self.x[inside])
        return G

    def of_parts(
        self,
        sequences: Int[Tensor, " part"],
        positions: Int[Tensor, "part token"],
        outside: Bool[Tensor, "part token"],
        rows: Rows | None = None,
    ) -> "RowTerms":
        """See `GradientTerms`."""
        terms = self if rows is None else self._restricted(rows)
        own = sequences[:, None], positions
        x = terms.x.transpose(1, 2)[own].masked_fill_(outside[..., None, None], 0).transpose(1, 2)
        if not terms.Ds.shape[1]:
            return RowTerms(terms.rows.mT[own].mT, x, terms.Ds[sequences], terms.a[sequences])
        # The hidden states are masked rather than the gradients at the logits, which are far larger.
        a = terms.a[own].masked_fill_(outside[..., None], 0)
        return RowTerms(terms.rows.mT[own].mT, x, terms.Ds[own], a)

    def _restricted(self, rows: Rows) -> "RowTerms":
        """Return the terms of these rows alone, as if there were no others."""
        places = rows.places(self.rows)
        x = self.x.masked_fill((places < 0)[..., None], 0)
        return RowTerms(places.clamp(min=0), x, rows.of_outputs(self.Ds), self.a)

    def token_scores(self, P: Float[Tensor, "d_out d_in"], sequence: int, N: int) -> Float[Tensor, " token"]:
        """See `GradientTerms`."""
        of_rows = (P[self.rows[sequence]] * self.x[sequence]).sum((0, 2))
        if self.Ds.shape[1]:
            of_rows = of_rows + (product(self.Ds[sequence], P) * self.a[sequence]).sum(-1)
        return -of_rows / N

    def outer_products(self, basis: Basis) -> list[OuterProducts]:
        """Return an outer product for each position that predicts, and the sums of what is added to single rows."""
        takes_part, is_added = (self.Ds != 0).any(-1), (self.x != 0).any(-1)
        a, x = basis.rotated_inputs(self.a), basis.rotated_inputs(self.x)
        found = []
        for sequence in range(len(self)):
            rows = self.rows[sequence][is_added[sequence]]
            indices, place = torch.unique(rows, return_inverse=True)
            X = x.new_zeros(len(indices), x.shape[-1]).index_add_(0, place, x[sequence][is_added[sequence]])
            dense = takes_part[sequence]
            found.append(OuterProducts(self.Ds[sequence][dense], a[sequence][dense], indices, X))
        return found

    def joined(self) -> "RowTerms":
        """See `GradientTerms`."""
        rows, x = self.rows.transpose(0, 1).flatten(1)[None], self.x.transpose(0, 1).flatten(1, 2)[None]
        return RowTerms(rows, x, self.Ds.flatten(0, 1)[None], self.a.flatten(0, 1)[None])
