"""Log-probabilities of completions, without gradients."""

import numpy as np
import torch
from transformers import PreTrainedModel

from influence_assets.capture.batches import Sequences
from influence_assets.capture.losses import log_likelihoods
from influence_assets.capture.runner import refuse_not_finite
from influence_assets.models.devices import input_device

SEQUENCES_AT_ONCE = 16


def log_probabilities(model: PreTrainedModel, queries: Sequences) -> np.ndarray:
    """Return f = log p(completion given prompt) of every query under a model, in nats.

    Args:
        model: any causal language model.
        queries: the queries, with the starts of their completions.

    Returns:
        float64 [query].

    Raises:
        FloatingPointError: a log-probability is not finite.
    """
    likelihoods = np.zeros(len(queries))
    with torch.no_grad():
        for batch in queries.batches(SEQUENCES_AT_ONCE, str(input_device(model)), by_length=True):
            logits = model(input_ids=batch.tokens, use_cache=False).logits
            likelihoods[batch.rows] = log_likelihoods(logits, batch.labels()).double().cpu().numpy()
    return refuse_not_finite(likelihoods)
