"""The terms that a layer's gradients are the sum of, in the form in which a kind of layer has them.

A linear layer has one outer product for each token (`TokenTerms`), an embedding vectors that are added to rows
(`row_terms.py`). Every term belongs to a position of its sequence: that of the token that goes in, which predicts the
next one.

The letters are those of `notation.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from influence_assets.maths.curvature import Basis
from influence_assets.maths.ekfac import sequence_gradients
from influence_assets.maths.influence import token_scores
from influence_assets.maths.outer_products import OuterProducts
from influence_assets.maths.rows import Rows

_AT_ONCE = "the gradients of a linear layer are made at once"


class GradientTerms(ABC):
    """The terms of a layer's gradients G [sequence, d_out, d_in] of the sequences of a batch.

    Args:
        Ds: gradients at the layer's outputs.
        a: the layer's inputs.
    """

    Ds: Float[Tensor, "sequence token d_out"]
    a: Float[Tensor, "sequence token d_in"]

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return self.Ds.shape[2], self.a.shape[2]

    def row_blocks(self) -> Sequence[Rows | None]:
        """Return the rows of G that are made at a time; None stands for all of them."""
        return [None]

    @abstractmethod
    def gradients(
        self,
        basis: Basis | None = None,
        *,
        S: bool = True,
        A: bool = True,
        rows: Rows | None = None,
        out: Float[Tensor, "sequence row d_in"] | None = None,
    ) -> Float[Tensor, "sequence row d_in"]:
        """Return G of every sequence, or some rows of it.

        Args:
            basis: the layer's basis, if sides are to be rotated into it.
            S: whether the side of the outputs is rotated.
            A: whether the side of the inputs is rotated.
            rows: one of `row_blocks`; None: all rows.
            out: memory to write them to.
        """

    @abstractmethod
    def of_parts(
        self,
        sequences: Int[Tensor, " part"],
        positions: Int[Tensor, "part token"],
        outside: Bool[Tensor, "part token"],
        rows: Rows | None = None,
    ) -> "GradientTerms":
        """Return the terms of parts of sequences, as if each part were a sequence.

        Args:
            sequences: the row of each part's sequence.
            positions: the positions of the part in it.
            outside: which of these do not count.
            rows: one of `row_blocks`, if G is to have these rows alone.
        """

    @abstractmethod
    def token_scores(self, P: Float[Tensor, "d_out d_in"], sequence: int, N: int) -> Float[Tensor, " token"]:
        """Return −⟨P, terms⟩ / N of each position of a sequence, of one query whose P is in the model's coordinates."""

    @abstractmethod
    def outer_products(self, basis: Basis) -> list[OuterProducts]:
        """Return what G of each sequence is the sum of, in the coordinates of a basis."""

    @abstractmethod
    def joined(self) -> "GradientTerms":
        """Return the terms of all sequences as if they were one."""


@dataclass(frozen=True)
class TokenTerms(GradientTerms):
    """G = Σ_t Ds_t a_tᵀ: the terms of a linear layer."""

    Ds: Float[Tensor, "sequence token d_out"]
    a: Float[Tensor, "sequence token d_in"]

    def gradients(
        self,
        basis: Basis | None = None,
        *,
        S: bool = True,
        A: bool = True,
        rows: Rows | None = None,
        out: Float[Tensor, "sequence row d_in"] | None = None,
    ) -> Float[Tensor, "sequence row d_in"]:
        """See `GradientTerms`."""
        if rows is not None:
            raise ValueError(_AT_ONCE)
        if basis is None or not (S or A):
            return sequence_gradients(self.Ds, self.a, out=out)
        return basis.rotated_sequence_gradients(self.Ds, self.a, S=S, A=A, out=out)

    def of_parts(
        self,
        sequences: Int[Tensor, " part"],
        positions: Int[Tensor, "part token"],
        outside: Bool[Tensor, "part token"],
        rows: Rows | None = None,
    ) -> "TokenTerms":
        """See `GradientTerms`."""
        if rows is not None:
            raise ValueError(_AT_ONCE)
        Ds = self.Ds[sequences[:, None], positions].masked_fill_(outside[..., None], 0)
        return TokenTerms(Ds, self.a[sequences[:, None], positions])

    def token_scores(self, P: Float[Tensor, "d_out d_in"], sequence: int, N: int) -> Float[Tensor, " token"]:
        """See `GradientTerms`."""
        return token_scores(P, self.Ds[sequence], self.a[sequence], N)

    def outer_products(self, basis: Basis) -> list[OuterProducts]:
        """Return one outer product for each token at which the gradient of the output is not zero."""
        takes_part = (self.Ds != 0).any(-1)
        counts = takes_part.sum(1).tolist()
        L = torch.split(basis.rotated_outputs(self.Ds[takes_part]), counts)
        R = torch.split(basis.rotated_inputs(self.a[takes_part]), counts)
        return [OuterProducts(*of_sequence) for of_sequence in zip(L, R, strict=True)]

    def joined(self) -> "TokenTerms":
        """See `GradientTerms`."""
        return TokenTerms(self.Ds.flatten(0, 1)[None], self.a.flatten(0, 1)[None])
