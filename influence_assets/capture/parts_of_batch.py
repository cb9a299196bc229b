"""The parts of sequences that a batch holds, a few of similar length at a time."""

import numpy as np
import torch
from torch import Tensor

from influence_assets.capture.batches import Batch, Parts
from influence_assets.maths.notation import device_of_sums

PARTS_AT_ONCE = 32
"""How many parts' gradients of one layer are in memory beside those of the batch's sequences."""


class PartsOfBatch:
    """The parts of the batch that is measured now; they are looked up once for all layers of it.

    Args:
        parts: the parts to measure, by the rows of all sequences.
        device: the device of the passes.
    """

    def __init__(self, parts: Parts, device: str) -> None:
        self._parts = parts
        self._device = device_of_sums(device)
        self._batch: Batch | None = None
        self._chunks: list[tuple[Parts, Tensor]] = []

    def chunks(self, batch: Batch) -> list[tuple[Parts, Tensor]]:
        """Return the batch's parts by their rows in it, a few at a time, with each one's number among all parts."""
        if self._batch is not batch:
            order = np.argsort(batch.rows)
            place = np.searchsorted(batch.rows, self._parts.sequences, sorter=order)
            rows = order[np.minimum(place, len(order) - 1)]
            numbers = np.flatnonzero(batch.rows[rows] == self._parts.sequences)
            own = self._parts.take(numbers)
            own = Parts(rows[numbers], own.starts, own.ends)
            by_length = np.argsort(own.lengths(), kind="stable")
            self._chunks = [
                (own.take(chunk), torch.from_numpy(numbers[chunk]).to(self._device, non_blocking=True))
                for start in range(0, len(by_length), PARTS_AT_ONCE)
                for chunk in [by_length[start : start + PARTS_AT_ONCE]]
            ]
            self._batch = batch
        return self._chunks
