"""Tiny models and sequences, built from configurations: small enough for oracles, of every architecture supported."""

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from influence_assets.capture.batches import Sequences

VOCABULARY = 17
CONTEXT = 12


def gpt2(*, seed: int = 0, width: int = 8, layers: int = 2) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=width, n_layer=layers, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, initializer_range=0.4,
    )  # fmt: skip
    return frozen(GPT2LMHeadModel(config))


def llama(*, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=8, intermediate_size=12,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4,
    )  # fmt: skip
    return frozen(LlamaForCausalLM(config))


def neox(*, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=8, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.4,
    )  # fmt: skip
    return frozen(GPTNeoXForCausalLM(config))


ARCHITECTURES = {"gpt2": gpt2, "llama": llama, "neox": neox}


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """In float64, evaluation mode, without parameter gradients, biases made non-zero so that they matter."""
    model = model.double().eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


def sequences(count: int = 6, *, seed: int = 0, ragged: bool = True) -> Sequences:
    """Random tokens; where ragged, of lengths from 2 to the context, padded with a valid token."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, VOCABULARY, (count, CONTEXT), dtype=np.int32)
    lengths = np.full(count, CONTEXT, np.int32)
    if ragged:
        lengths = generator.integers(2, CONTEXT + 1, count, dtype=np.int32)
        lengths[0] = CONTEXT
    keys = generator.integers(0, 2**62, count)
    return Sequences(tokens, lengths, keys)


def queries(count: int = 3, *, seed: int = 7) -> Sequences:
    """Random prompts and completions: the completion starts somewhere after the first token."""
    made = sequences(count, seed=seed)
    lengths = np.maximum(made.lengths, 4)
    first = np.random.default_rng(seed).integers(1, lengths - 1).astype(np.int32)
    return Sequences(made.tokens, lengths, made.keys, first)
