"""Batches of padded sequences, as they go through the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from influence_assets.maths.row_terms import IGNORED


@dataclass(frozen=True)
class Parts:
    """Runs of positions in sequences, one a document: all runs of each sequence that holds more than one document.

    Sequences are not named if they have one part only, because that part is the whole.

    Args:
        sequences: int64 [part]: the row of the sequence; ascending.
        starts: int64 [part]: the first position.
        ends: int64 [part]: one past the last position.
    """

    sequences: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sequences)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the number of positions of each part."""
        return self.ends - self.starts

    def take(self, parts: npt.NDArray[np.int64]) -> "Parts":
        """Return some of the parts."""
        return Parts(self.sequences[parts], self.starts[parts], self.ends[parts])

    def longest_of_each(self) -> npt.NDArray[np.int64]:
        """Return the longest part of each sequence that has parts; of equally long ones, the first."""
        order = np.lexsort((np.arange(len(self)), -self.lengths(), self.sequences))
        _, first = np.unique(self.sequences[order], return_index=True)
        return order[first]


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right to the longest among them.

    Args:
        tokens: padding is any valid id; in a causal model no real token attends to it.
        lengths: number of real tokens in each sequence.
        is_counted: whether a position predicts a token that carries a loss; a sequence's last position never does.
        keys: a 63-bit number for each sequence, which seeds the labels that are sampled for it.
        rows: the rows of `Sequences` that the batch holds, in the same order.
        positions: the indices at which `is_counted` is true in the flattened [sequence · token], ascending. They are
            computed on the host, because computing them on a device would make the host wait for it.
        counted_sequences: how many of the sequences have such a position.
    """

    tokens: Int[Tensor, "sequence token"]
    lengths: Int[Tensor, " sequence"]
    is_counted: Bool[Tensor, "sequence token"]
    keys: tuple[int, ...]
    rows: npt.NDArray[np.int64]
    positions: Int[Tensor, " counted"]
    counted_sequences: int

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def labels(self) -> Int[Tensor, "sequence token"]:
        """Return the token that follows each counted position; IGNORED elsewhere."""
        following = torch.roll(self.tokens, -1, dims=1)
        return following.masked_fill(~self.is_counted, IGNORED)

    def to(self, device: str) -> "Batch":
        """Return the batch on a device."""
        parts = (self.tokens, self.lengths, self.is_counted, self.positions)
        tokens, lengths, is_counted, positions = (part.to(device, non_blocking=True) for part in parts)
        return Batch(tokens, lengths, is_counted, self.keys, self.rows, positions, self.counted_sequences)


@dataclass(frozen=True)
class Sequences:
    """All the sequences of a shard or of a query set, on the host.

    Args:
        tokens: int32 [sequence, token], padded on the right.
        lengths: int32 [sequence].
        keys: int64 [sequence]: the sequence ids.
        first_scored: int32 [sequence], the first token that carries a loss: a query's completion; None means 1, every
            token but the first.
        loss: bool or uint8 [sequence, token], which tokens from `first_scored` on carry a loss; None means all.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray
    first_scored: np.ndarray | None = None
    loss: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def joined(cls, parts: Sequence["Sequences"]) -> "Sequences":
        """Return the training sequences of several shards, one after the other; they have one length."""
        tokens, lengths, keys = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "lengths", "keys")
        )
        if all(part.loss is None for part in parts):
            return cls(tokens, lengths, keys)
        masks = [np.ones(part.tokens.shape, np.uint8) if part.loss is None else part.loss for part in parts]
        return cls(tokens, lengths, keys, loss=np.concatenate(masks))

    def with_loss(self) -> "Sequences":
        """Return the sequences of which some token carries a loss; the others have no gradient."""
        carrying = self.counted_tokens() > 0
        return self if carrying.all() else self.take(np.flatnonzero(carrying))

    def take(self, rows: np.ndarray) -> "Sequences":
        """Return some of the sequences, in the order given."""
        scored = None if self.first_scored is None else self.first_scored[rows]
        loss = None if self.loss is None else self.loss[rows]
        return Sequences(self.tokens[rows], self.lengths[rows], self.keys[rows], scored, loss)

    def counted(self, rows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.bool_]:
        """Return which positions predict a token that carries a loss: bool [row, length]."""
        following = np.arange(length)[None, :] + 1
        first = np.ones(len(rows), np.int64) if self.first_scored is None else self.first_scored[rows].astype(np.int64)
        counted = (following >= first[:, None]) & (following < self.lengths[rows].astype(np.int64)[:, None])
        if self.loss is not None:
            counted[:, :-1] &= self.loss[rows, 1:length] != 0
        return np.asarray(counted)

    def counted_tokens(self) -> npt.NDArray[np.int64]:
        """Return how many tokens of each sequence carry a loss."""
        first = 1 if self.first_scored is None else self.first_scored
        if self.loss is None:
            return np.asarray(np.maximum(self.lengths.astype(np.int64) - first, 0))
        counted = self.counted(np.arange(len(self)), self.tokens.shape[1])
        return np.asarray(counted.sum(axis=1), np.int64)

    def batches(self, size: int, device: str, *, by_length: bool = False) -> Iterator[Batch]:
        """Yield batches of `size` sequences, each cut to its longest sequence.

        Args:
            size: number of sequences in a batch.
            device: where the batches go. Each is copied there while the one before is in use.
            by_length: batch sequences of similar length, the longest first, instead of in order; needs less padding.
        """
        order = np.argsort(-self.lengths, kind="stable") if by_length else np.arange(len(self))
        ahead: Batch | None = None
        for start in range(0, len(order), size):
            following = self._batch(order[start : start + size]).to(device)
            if ahead is not None:
                yield ahead
            ahead = following
        if ahead is not None:
            yield ahead

    def _batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        lengths = self.lengths[rows].astype(np.int64)
        longest = int(lengths.max())
        counted = self.counted(rows, longest)
        return Batch(
            torch.from_numpy(self.tokens[rows, :longest].astype(np.int64)),
            torch.from_numpy(lengths),
            torch.from_numpy(counted),
            tuple(int(key) for key in self.keys[rows]),
            rows,
            torch.from_numpy(np.flatnonzero(counted)),
            int(counted.any(axis=1).sum()),
        )
