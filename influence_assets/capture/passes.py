"""One pass of the model over a batch: log-likelihood, labels and the backward that feeds the tapped layers."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from influence_assets.capture.batches import IGNORED, Batch
from influence_assets.capture.hooks import LayerTap


@dataclass(frozen=True)
class LabelSampler:
    """Draws labels from the model's own distribution: the true Fisher's labels.

    Every sequence has a generator of its own, seeded by the study's seed and the sequence's key, so that its labels
    depend neither on the batch that it came in nor on the shard or process.
    """

    seed: int

    def uniforms(self, batch: Batch) -> Float[Tensor, "sequence token"]:
        """One number in [0, 1) for each position, in float64."""
        length = batch.tokens.shape[1]
        rows = [np.random.Generator(np.random.Philox(key=(self.seed, key))).random(length) for key in batch.keys]
        return torch.from_numpy(np.stack(rows))

    def __call__(self, logits: Float[Tensor, "sequence token word"], batch: Batch) -> Int[Tensor, "sequence token"]:
        """Labels by inversion of the cumulative distribution; IGNORED where no loss is counted."""
        probabilities = logits.detach().softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        cumulative = probabilities.cumsum(-1)
        uniform = self.uniforms(batch).to(cumulative.device, cumulative.dtype)[..., None] * cumulative[..., -1:]
        drawn = torch.searchsorted(cumulative, uniform, right=True)[..., 0].clamp_(max=logits.shape[-1] - 1)
        return drawn.masked_fill_(~batch.counted(), IGNORED)


def log_likelihoods(
    logits: Float[Tensor, "sequence token word"], labels: Int[Tensor, "sequence token"]
) -> Float[Tensor, " sequence"]:
    """Σ_t log p(label_t | tokens up to t) of each sequence, in nats; IGNORED positions count nothing."""
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = cross_entropy(precise.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view(labels.shape).sum(-1)


def run_pass(
    model: PreTrainedModel, tap: LayerTap, batch: Batch, *, sampler: LabelSampler | None = None, sign: float = -1.0
) -> Float[Tensor, " sequence"]:
    """Forward, and backward of sign · Σ log-likelihood through the tapped layers.

    The default sign gives gradients of the loss L = −log p, as training has them; +1 gives those of a query's f.

    Returns:
        Each sequence's log-likelihood under the labels used.
    """
    tap.start()
    logits = model(input_ids=batch.tokens, use_cache=False).logits
    labels = batch.labels() if sampler is None else sampler(logits, batch)
    likelihoods = log_likelihoods(logits, labels)
    (sign * likelihoods.sum()).backward()  # type: ignore[no-untyped-call]
    tap.finish()
    return likelihoods.detach()
