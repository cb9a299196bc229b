"""Tokens as points: the hidden state that predicts a token, and the token itself as its label."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

States = Callable[[], Iterable[Float[Tensor, "_ width"]]]
"""Yields hidden states, some at a time, always in the same order. They may be too many to be in memory at once."""


@dataclass(frozen=True)
class TrainingPoints:
    """The training tokens, each in a part: a document's tokens in one sequence, for example.

    Args:
        states: the hidden states, in the order of the tokens.
        labels: the tokens.
        parts: the part of each token, below `part_count`.
        part_count: the number of parts, some of which may have no token.
    """

    states: States
    labels: Int[Tensor, " token"]
    parts: Int[Tensor, " token"]
    part_count: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class QueryPoints:
    """The tokens of the completions of some queries; results are on the device of the states.

    Args:
        states: a hidden state for each token.
        labels: the tokens.
        queries: the query of each token, below `query_count`.
        query_count: the number of queries.
    """

    states: Float[Tensor, "token width"]
    labels: Int[Tensor, " token"]
    queries: Int[Tensor, " token"]
    query_count: int

    def __len__(self) -> int:
        return len(self.labels)
