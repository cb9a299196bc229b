"""A short training of a tiny model in float64, like a study's own, and what it says as a function of its weights."""

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from influence_assets.models.training_run import IGNORED, TrainingRun
from influence_assets.study import Training
from influence_assets.training_tokens import TrainingTokens

WORDS, LENGTH = 11, 6
RECIPE = Training(layers=1, width=8, heads=2, vocabulary=257, epochs=3, batch_sequences=4, learning_rate=1e-2, seed=3)


def model(seed=0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, bos_token_id=0, eos_token_id=0, n_embd=4, n_layer=1, n_head=2,
        initializer_range=0.12, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).double().train()


def part(count=8):
    """Eight sequences of different lengths, one token of which carries no loss."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(0, WORDS, (count, LENGTH), dtype=np.int32)
    lengths = generator.integers(3, LENGTH + 1, count).astype(np.int32)
    loss = np.ones_like(tokens, np.uint8)
    loss[1, 2] = 0
    return TrainingTokens(tokens, lengths, loss)


def queries():
    """Two queries, the second shorter, with prompts of one and two tokens."""
    tokens = torch.tensor([[1, 4, 2, 7, 3], [5, 5, 9, 0, 0]])
    labels = tokens.clone()
    labels[0, 0] = labels[1, 0] = labels[1, 1] = IGNORED
    labels[1, 3:] = IGNORED
    return tokens, labels


def run(recipe=RECIPE, sequences=None):
    trained = model()

    def summed_loss(tokens, labels):
        logits = trained(input_ids=tokens, use_cache=False).logits[:, :-1]
        return functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )

    return TrainingRun(trained, summed_loss, part() if sequences is None else sequences, recipe, {})


SHAPE = model()
"""A model whose weights are replaced."""


def log_probability(weights, tokens, labels):
    """f of one query, by the definition."""
    logits = functional_call(SHAPE, weights, (tokens[None],), {"use_cache": False}).logits[0]
    terms = [logits[t - 1].log_softmax(-1)[labels[t]] for t in range(1, len(tokens)) if labels[t] != IGNORED]
    return torch.stack(terms).sum()


def log_probabilities(weights):
    return torch.stack([log_probability(weights, *each) for each in zip(*queries(), strict=True)])
