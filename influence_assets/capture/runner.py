"""Runs a loaded model over sequences, batch by batch, for what is measured of each layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.capture.batch_size import batch_size
from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.hooks import Consumer, LayerTap
from influence_assets.capture.losses import Head, LabelSampler, plain_head
from influence_assets.capture.passes import Pass
from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature
from influence_assets.models.devices import input_device
from influence_assets.models.frozen_products import frozen_products
from influence_assets.models.layers.rule import AttributedLayer

Placeable = TypeVar("Placeable", Tensor, Eigenbasis, LayerCurvature)

Progress = Callable[[int], None]
"""Called with the number of sequences that a batch has finished."""


@dataclass(frozen=True)
class Runner:
    """A loaded model with the layers that are attributed, and how its passes are run.

    Args:
        model: frozen, in evaluation mode.
        modules: the attributed layers.
        batch_sequences: sequences in one pass; `auto` takes as many as memory holds.
        progress: called after every batch.
    """

    model: PreTrainedModel
    modules: Sequence[AttributedLayer]
    batch_sequences: int | Literal["auto"] = "auto"
    progress: Progress = lambda _count: None

    @property
    def device(self) -> str:
        """The device of the embeddings, for batches and results; layers of a spread model are on others too."""
        return str(input_device(self.model))

    def placed(self, layers: Mapping[str, Placeable]) -> dict[str, Placeable]:
        """Return what belongs to each attributed layer, on its device and laid out for it, copied only if need be."""
        return {linear.name: layers[linear.name].to(linear.device) for linear in self.modules if linear.name in layers}

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model's weights and passes."""
        return self.model.dtype

    @cached_property
    def head(self) -> Head | None:
        """The model's head, where the loss can be computed without holding all the logits."""
        return plain_head(self.model, self.modules)

    def batch_size(self, sequences: Sequences) -> int:
        """Return how many of these sequences go through the model at once."""
        if self.batch_sequences != "auto":
            return self.batch_sequences
        return batch_size(self.model, self.head, self.modules, int(sequences.lengths.max(initial=1)))

    def passes(self, sequences: Sequences, *, by_length: bool = True) -> Iterator[tuple[Batch, Pass]]:
        """Yield each batch of the sequences after its forward pass; backward passes are up to the caller."""
        for batch in sequences.batches(self.batch_size(sequences), self.device, by_length=by_length):
            with LayerTap(self.modules) as tap, frozen_products(self.model):
                yield batch, Pass(self.model, self.head, tap, batch)
            self.progress(len(batch))

    def run(
        self,
        sequences: Sequences,
        consumer: Callable[[Batch], Consumer],
        *,
        sampler: LabelSampler | None = None,
        sign: float = -1.0,
    ) -> np.ndarray:
        """Run one pass over all sequences; `consumer(batch)` returns what is done with each layer of a batch.

        Batches are of sequences of like length: their `rows` say which.

        Returns:
            float64 [sequence]: the log-likelihoods under the labels used.

        Raises:
            FloatingPointError: a log-likelihood is not finite.
        """
        log_likelihoods = np.zeros(len(sequences))
        parts = []
        for batch, forward in self.passes(sequences):
            parts.append((batch.rows, forward.backward(consumer(batch), sampler=sampler, sign=sign)))
        for rows, likelihoods in parts:  # only now: looking at a number makes the host wait for the device
            log_likelihoods[rows] = likelihoods.double().cpu().numpy()
        return refuse_not_finite(log_likelihoods)


def refuse_not_finite(likelihoods: np.ndarray) -> np.ndarray:
    """Return the log-likelihoods as they are.

    Raises:
        FloatingPointError: one is not finite.
    """
    if not np.isfinite(likelihoods).all():
        raise FloatingPointError("the model's log-likelihood of a sequence is not finite")
    return likelihoods
