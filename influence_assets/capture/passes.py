"""One pass of the model over a batch: log-likelihoods, labels, and backward passes through the tapped layers."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from influence_assets.capture.batches import Batch
from influence_assets.capture.hooks import Consumer, LayerTap
from influence_assets.capture.losses import (
    Head,
    LabelSampler,
    Loss,
    chunked_losses,
    log_likelihoods,
    sampled_labels,
)
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.maths.row_terms import RowTerms


class Pass:
    """A batch that has gone forward through the model, ready for backward passes of its log-likelihood.

    Args:
        model: the frozen model.
        head: the model's head, as `plain_head` returns it; without one, all logits are in memory at once.
        tap: an entered tap of the model's attributed layers.
        batch: the batch, on the model's device.
    """

    def __init__(self, model: PreTrainedModel, head: Head | None, tap: LayerTap, batch: Batch) -> None:
        self._head = head
        self._tap = tap
        self._batch = batch
        self._losses: dict[LabelSampler | None, Loss] = {}
        self._probabilities: Tensor | None = None
        tap.start(batch.tokens)
        if head is None:
            self._output = model(input_ids=batch.tokens, use_cache=False).logits
        else:
            self._output = model.base_model(input_ids=batch.tokens, use_cache=False)[0]

    def backward(
        self,
        consume: Consumer,
        *,
        sampler: LabelSampler | None = None,
        sign: float = -1.0,
        then: Sequence[LabelSampler | None] = (),
    ) -> Float[Tensor, " sequence"]:
        """Pass every layer's input and the gradient of sign · Σ log-likelihood at its output to `consume`.

        Args:
            consume: called with each layer, the last one first.
            sampler: draws labels from the model; None takes the data's own.
            sign: −1 gives gradients of the loss L = −log p, as in training; +1 gives those of a query's f.
            then: the labels of later backward passes of the same batch.

        Returns:
            Each sequence's log-likelihood under the labels used.
        """
        with self._tap.consuming(consume):
            if self._head is None:
                batch, logits = self._batch, self._output
                labels = batch.labels() if sampler is None else sampled_labels(logits, batch, sampler)
                likelihoods = log_likelihoods(logits, labels)
                (sign * likelihoods.sum()).backward(retain_graph=bool(then))  # type: ignore[no-untyped-call]
            else:
                if sampler not in self._losses:
                    self._compute_losses(self._head, (sampler, *then))
                likelihoods, gradient, labels = self._losses.pop(sampler)
                self._bring_logits(self._head, labels, sign)
                self._output.backward(gradient.mul_(sign), retain_graph=bool(then))
        return likelihoods.detach()

    def _compute_losses(self, head: Head, samplers: Sequence[LabelSampler | None]) -> None:
        if self._tap.needs_logits and self._probabilities is None:
            words, dtype = head.weight.shape[0], accumulation_dtype(head.weight.dtype)
            self._probabilities = head.weight.new_empty(*self._output.shape[:2], words, dtype=dtype)
            self._probabilities[~self._batch.is_counted.to(head.weight.device)] = 0  # the others are written
        losses = chunked_losses(self._output, head, self._batch, samplers, self._probabilities)
        self._losses = dict(zip(samplers, losses, strict=True))

    def _bring_logits(self, head: Head, labels: Tensor, sign: float) -> None:
        """Pass what the head's own matrix has of this backward pass to the tap, if it is attributed."""
        p = self._probabilities
        if p is None:
            return
        h = self._output.detach().to(head.weight).to(p.dtype)  # rounded as it goes into the head
        self._tap.bring_logits(RowTerms.of_likelihoods(p, h, labels.to(p.device), sign))
