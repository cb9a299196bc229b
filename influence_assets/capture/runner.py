"""Passes of a loaded model over sequences, batch by batch, for the measurements of each layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.capture.batch_size import batch_size, sequence_bytes
from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer, LayerTap
from influence_assets.capture.losses import Head, LabelSampler, plain_head
from influence_assets.capture.passes import Pass
from influence_assets.maths.curvature import Basis, Curvature
from influence_assets.models.devices import input_device
from influence_assets.models.dimensions import length_limits
from influence_assets.models.freed_memory import release_freed
from influence_assets.models.frozen_products import frozen_products
from influence_assets.models.layers.rule import AttributedLayer
from influence_assets.storage.artifacts.peak_memory import resident_bytes

Placeable = TypeVar("Placeable", Tensor, Basis, Curvature)

Progress = Callable[[int], None]
"""Called with the number of sequences that a batch has finished."""


@dataclass(frozen=True)
class Runner:
    """A loaded model with its attributed layers and the settings of its passes.

    Args:
        model: the frozen model, in evaluation mode.
        modules: the attributed layers.
        batch_sequences: number of sequences in one pass; `auto` takes as many as fit into memory.
        progress: called after every batch.
        memory_bytes: the most that this process may take, on a processor; None: what there is.
    """

    model: PreTrainedModel
    modules: Sequence[AttributedLayer]
    batch_sequences: int | Literal["auto"] = "auto"
    progress: Progress = lambda _count: None
    memory_bytes: int | None = None

    @property
    def device(self) -> str:
        """The device of the embeddings, for batches and results; a spread model has layers on other devices too."""
        return str(input_device(self.model))

    def placed(self, layers: Mapping[str, Placeable]) -> dict[str, Placeable]:
        """Return each attributed layer's value on that layer's device, copied only if necessary."""
        return {linear.name: layers[linear.name].to(linear.device) for linear in self.modules if linear.name in layers}

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model's weights and passes."""
        return self.model.dtype

    @cached_property
    def head(self) -> Head | None:
        """The model's head, if the loss can be computed without all logits in memory, else None."""
        return plain_head(self.model, self.modules)

    def batch_size(self, sequences: Sequences) -> int:
        """Return how many of these sequences go through the model at once."""
        return self._sequences_of(int(sequences.lengths.max(initial=1)))

    def batch_bytes(self, tokens: int) -> int:
        """Return the most bytes that a batch of sequences of this length takes during a pass."""
        return self._sequences_of(tokens) * sequence_bytes(self.model, self.head, self.modules, tokens)

    def batch_tokens(self, tokens: int) -> int:
        """Return the tokens of a batch of sequences of this length."""
        return self._sequences_of(tokens) * tokens

    def _sequences_of(self, tokens: int) -> int:
        if self.batch_sequences != "auto":
            return self.batch_sequences
        return batch_size(self.model, self.head, self.modules, tokens, self.memory_bytes)

    def batches(self, sequences: Sequences, *, by_length: bool = False) -> Iterator[Batch]:
        """Yield the batches of the sequences, on the model's device.

        Where a model computes something else for long sequences, short ones do not share a batch with them: what it
        says about a sequence must not depend on its neighbours.

        Args:
            sequences: the sequences.
            by_length: batch sequences of similar length instead of in order.
        """
        side = np.searchsorted(np.array(length_limits(self.model.config)), sequences.lengths)
        size = self.batch_size(sequences)
        for rows in (np.flatnonzero(side == value) for value in np.unique(side)):
            part = sequences if len(rows) == len(sequences) else sequences.take(rows)
            for batch in part.batches(size, self.device, by_length=by_length):
                yield batch if part is sequences else replace(batch, rows=rows[batch.rows])

    def passes(self, sequences: Sequences, *, by_length: bool = True) -> Iterator[tuple[Batch, Pass]]:
        """Yield each batch of the sequences after its forward pass; the caller runs the backward passes.

        Where memory is limited, what batches free goes back to the system as soon as the next one could exceed the
        limit. Otherwise it lies in pieces between what stays.
        """
        most = None
        if self.memory_bytes is not None and self.device == "cpu":
            most = self.memory_bytes - self.batch_bytes(int(sequences.lengths.max(initial=1)))
        for batch in self.batches(sequences, by_length=by_length):
            with LayerTap(self.modules) as tap, frozen_products(self.model):
                yield batch, Pass(self.model, self.head, tap, batch)
            if most is not None and resident_bytes() > most:
                release_freed()
            self.progress(len(batch))

    def run(
        self,
        sequences: Sequences,
        consumer: Callable[[Batch], Consumer],
        *,
        sampler: LabelSampler | None = None,
        sign: float = -1.0,
    ) -> np.ndarray:
        """Run one pass over all sequences; `consumer(batch)` returns the function that receives a batch's layers.

        Batches group sequences of similar length; their `rows` say which sequences they hold.

        Returns:
            float64 [sequence]: the log-likelihoods under the labels used.

        Raises:
            FloatingPointError: a log-likelihood is not finite.
        """
        log_likelihoods = np.zeros(len(sequences))
        parts = []
        for batch, forward in self.passes(sequences):
            parts.append((batch.rows, forward.backward(consumer(batch), sampler=sampler, sign=sign)))
        for rows, likelihoods in parts:  # not earlier, because reading a number makes the host wait for the device
            log_likelihoods[rows] = likelihoods.cpu().double().numpy()
        return refuse_not_finite(log_likelihoods)


def refuse_not_finite(likelihoods: np.ndarray) -> np.ndarray:
    """Return the log-likelihoods after checking that they are finite.

    Raises:
        FloatingPointError: one of them is not.
    """
    if not np.isfinite(likelihoods).all():
        raise FloatingPointError("the model's log-likelihood of a sequence is not finite")
    return likelihoods
