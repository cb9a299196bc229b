"""Log-likelihoods and their gradient at the model's last hidden state, without all logits in memory at once.

The output head of a causal language model is one matrix product, and the gradient of a log-likelihood with respect to
its logits has a closed form: one-hot label minus softmax. So the logits of a few positions at a time are computed,
turned into probabilities in place and multiplied back while they are in the processor's cache. The logits are often the
largest tensor of a batch; autograd would hold them three times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from influence_assets.capture.batches import Batch
from influence_assets.maths.notation import accumulation_dtype, device_of_sums, in_float64
from influence_assets.maths.products import product
from influence_assets.maths.row_terms import IGNORED
from influence_assets.models.devices import input_device
from influence_assets.models.layers.rule import AttributedLayer

_LOGITS_AT_ONCE = {"cpu": 2**20}
_LOGITS_AT_ONCE_ON_DEVICE = 2**27
"""How many logits are computed at once: 4 MiB in float32 stay in a processor's cache; a GPU needs large products."""

_ENLARGEMENT = 2.0**12
"""A power of two, so that multiplying by it is exact."""


@dataclass(frozen=True)
class LabelSampler:
    """A sampler of labels from the model's own distribution, as the true Fisher needs them.

    Every sequence has its own generator, seeded by the study's seed and the sequence's key, so that its labels do not
    depend on its batch, shard or process.
    """

    seed: int

    def uniforms(self, batch: Batch) -> Float[Tensor, " counted"]:
        """Return a number in [0, 1) for each counted position, in float64, where `device_of_sums` says."""
        length = batch.tokens.shape[1]
        rows = [np.random.Generator(np.random.Philox(key=(self.seed, key))).random(length) for key in batch.keys]
        there = device_of_sums(batch.tokens.device)
        return torch.from_numpy(np.stack(rows)).flatten().to(there)[batch.positions.to(there)]

    @staticmethod
    def draw(
        probabilities: Float[Tensor, "position word"], uniforms: Float[Tensor, " position"]
    ) -> Int[Tensor, " position"]:
        """Draw labels by inversion of the cumulative distribution, which is summed in float64.

        In float32 neighbouring numbers near 1 are 6e-8 apart: of a large vocabulary, many words would have an interval
        of width zero there, and could never be drawn.
        """
        there = device_of_sums(probabilities.device)
        cumulative = probabilities.to(there).cumsum(-1, dtype=torch.float64)
        reached = in_float64(uniforms).to(there)[:, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, reached, right=True)[:, 0].clamp_(max=probabilities.shape[-1] - 1)
        return drawn.to(probabilities.device)


@dataclass(frozen=True)
class Head:
    """The last linear map of a model: logits = hidden state · weightᵀ + bias."""

    weight: Float[Tensor, "word width"]
    bias: Float[Tensor, " word"] | None


class Loss(NamedTuple):
    """The log-likelihoods of a batch and the gradient that a backward pass begins with.

    Args:
        likelihoods: each sequence's log-likelihood.
        gradient: the gradient of their sum at the last hidden state.
        labels: the labels used; IGNORED at positions that do not count.
    """

    likelihoods: Float[Tensor, " sequence"]
    gradient: Float[Tensor, "sequence token width"]
    labels: Int[Tensor, "sequence token"]


def plain_head(model: PreTrainedModel, attributed: Sequence[AttributedLayer]) -> Head | None:
    """Return the model's head if the logits are its plain product with the last hidden state, else None.

    This is tested on the model, because some architectures scale, cap or mask their logits afterwards. The test uses
    logits far larger than the model's own, since a cap leaves small ones unchanged. The result is also None if the head
    itself is attributed, because a hook must then see its inputs.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if type(head) is not nn.Linear or model.base_model is model or any(m.module is head for m in attributed):
        return None
    tokens = torch.arange(min(8, head.weight.shape[0]), device=input_device(model))[None]
    enlarged = head.register_forward_hook(lambda _head, _inputs, output: output * _ENLARGEMENT)
    with enlarged, torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits
        hidden = model.base_model(input_ids=tokens, use_cache=False)[0]
        if hidden.shape[-1] != head.weight.shape[1]:  # there is another layer between them
            return None
        by_hand = head(hidden.to(head.weight.dtype))
    is_plain = logits.shape == by_hand.shape and torch.equal(in_float64(logits.to(by_hand)), in_float64(by_hand))
    return Head(head.weight, head.bias) if is_plain else None


def log_likelihoods(
    logits: Float[Tensor, "sequence token word"], labels: Int[Tensor, "sequence token"]
) -> Float[Tensor, " sequence"]:
    """Return Σ_t log p(label_t | tokens up to t) for each sequence, in nats; IGNORED positions do not count."""
    precise = logits.to(accumulation_dtype(logits.dtype))
    targets = labels.flatten().to(logits.device)
    losses = cross_entropy(precise.flatten(0, 1), targets, ignore_index=IGNORED, reduction="none")
    return -losses.view(labels.shape).sum(-1)


def sampled_labels(
    logits: Float[Tensor, "sequence token word"], batch: Batch, sampler: LabelSampler
) -> Int[Tensor, "sequence token"]:
    """Draw a label at each counted position; other positions are IGNORED."""
    rows = logits.detach().flatten(0, 1)[batch.positions.to(logits.device)]
    uniforms = sampler.uniforms(batch).to(device_of_sums(logits.device))
    drawn = sampler.draw(rows.softmax(-1, dtype=accumulation_dtype(rows.dtype)), uniforms)
    labels = torch.full_like(batch.tokens, IGNORED)
    labels.view(-1)[batch.positions] = drawn.to(labels.device)
    return labels


def chunked_losses(
    hidden: Float[Tensor, "sequence token width"],
    head: Head,
    batch: Batch,
    samplers: Sequence[LabelSampler | None],
    probabilities: Float[Tensor, "sequence token word"] | None = None,
) -> list[Loss]:
    """Return the log-likelihoods and their gradient for each set of labels, computing the logits only once.

    Args:
        hidden: the model's last hidden state, as it goes into the head.
        head: the model's head.
        batch: the batch whose tokens are the data's own labels.
        samplers: for each set of labels, a sampler that draws it from the model, or None for the data's own labels.
        probabilities: memory to which those of all words at counted positions are written, if they are needed.

    Returns:
        One loss for each set of labels.
    """
    device = head.weight.device
    # Some models keep the residual stream in float32 and round it before their head.
    states = hidden.detach().flatten(0, 1)[batch.positions.to(hidden.device)].to(head.weight)
    # The last position of a sequence is never counted, so that the next token belongs to the same sequence.
    own = batch.tokens.flatten()[batch.positions + 1].to(device)
    uniforms = [None if sampler is None else sampler.uniforms(batch).to(device_of_sums(device)) for sampler in samplers]
    precise = accumulation_dtype(states.dtype)
    likelihoods = [states.new_empty(len(states), dtype=precise) for _ in samplers]
    gradients = [torch.empty_like(states) for _ in samplers]
    labels_used = [torch.empty_like(own) for _ in samplers]
    at_once = max(1, _LOGITS_AT_ONCE.get(device.type, _LOGITS_AT_ONCE_ON_DEVICE) // head.weight.shape[0])
    for start in range(0, len(states), at_once):
        part = slice(start, start + at_once)
        logits = product(states[part], head.weight.T, bias=head.bias).to(precise)
        largest = logits.amax(-1, keepdim=True)
        of_own = logits.gather(1, own[part, None]) - largest
        p = torch.softmax(logits, -1, out=logits)
        if probabilities is not None:
            probabilities.flatten(0, 1)[batch.positions[part].to(device)] = p
        labels = [own[part] if drawn is None else LabelSampler.draw(p, drawn[part]) for drawn in uniforms]
        for values, drawn, chosen, used in zip(likelihoods, uniforms, labels, labels_used, strict=True):
            used[part] = chosen
            # The data's own label may have a probability that underflows, so it is computed relative to the largest.
            logp = of_own + p.amax(-1, keepdim=True).log() if drawn is None else p.gather(1, chosen[:, None]).log()
            values[part] = logp[:, 0]
        for gradient, slope in zip(gradients, _slopes(p, labels, head.weight), strict=True):
            gradient[part] = slope
    return [_of_sequences(hidden, batch, *loss) for loss in zip(likelihoods, gradients, labels_used, strict=True)]


def _slopes(p: Tensor, labels: Sequence[Tensor], weight: Tensor) -> Iterator[Tensor]:
    """Yield (one-hot − p) · weight at some positions for each set of labels."""
    if p.dtype == weight.dtype:
        expected = product(p, weight)  # shared by all sets; in half precision the difference would lose its digits
        yield from (weight[chosen] - expected for chosen in labels)
        return
    for chosen in labels:
        slope = (-p).scatter_add_(1, chosen[:, None], torch.ones_like(p[:, :1]))
        yield slope.to(weight.dtype) @ weight


def _of_sequences(hidden: Tensor, batch: Batch, likelihoods: Tensor, gradient: Tensor, chosen: Tensor) -> Loss:
    positions = batch.positions.to(hidden.device)
    sequence = positions // batch.tokens.shape[1]
    totals = likelihoods.new_zeros(len(batch), device=hidden.device).index_add_(
        0, sequence, likelihoods.to(hidden.device)
    )
    spread = torch.zeros_like(hidden).flatten(0, 1).index_copy_(0, positions, gradient.to(hidden))
    labels = torch.full_like(batch.tokens, IGNORED, device=hidden.device)
    labels.view(-1)[positions] = chosen.to(labels.device)
    return Loss(totals, spread.view_as(hidden), labels)
