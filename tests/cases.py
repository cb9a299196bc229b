"""Tiny models and sequences, built from configurations: small enough for oracles, of every architecture supported."""

import numpy as np
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
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


GROUPED_QUERIES = {
    "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.4,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
"""Two attention heads share each key and value, as in all that follows Llama."""


def llama(*, seed: int = 0, tied: bool = False) -> PreTrainedModel:
    torch.manual_seed(seed)
    return frozen(LlamaForCausalLM(LlamaConfig(**GROUPED_QUERIES, tie_word_embeddings=tied)))


def neox(*, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=8, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.4,
    )  # fmt: skip
    return frozen(GPTNeoXForCausalLM(config))


def gemma2(*, cap: float = 2.0) -> PreTrainedModel:
    """Logits and attention are capped by a tanh; embeddings are tied and scaled."""
    torch.manual_seed(0)
    caps = {"final_logit_softcapping": cap, "attn_logit_softcapping": cap}
    return frozen(Gemma2ForCausalLM(Gemma2Config(**GROUPED_QUERIES, **caps, head_dim=4)))


def cohere() -> PreTrainedModel:
    """Logits are scaled; attention and MLP see the same input, side by side."""
    torch.manual_seed(0)
    return frozen(CohereForCausalLM(CohereConfig(**GROUPED_QUERIES, logit_scale=0.3)))


def granite() -> PreTrainedModel:
    """Logits, residuals and attention are scaled."""
    torch.manual_seed(0)
    scales = {"logits_scaling": 8.0, "residual_multiplier": 0.3, "attention_multiplier": 0.6}
    return frozen(GraniteForCausalLM(GraniteConfig(**GROUPED_QUERIES, **scales)))


def mixtral() -> PreTrainedModel:
    """Each token goes through two of four experts."""
    torch.manual_seed(0)
    return with_experts(MixtralForCausalLM(MixtralConfig(**GROUPED_QUERIES, num_local_experts=4)))


def qwen2_moe() -> PreTrainedModel:
    """The first block has a plain MLP, the second experts and one more that all tokens share."""
    torch.manual_seed(0)
    sizes = {"moe_intermediate_size": 6, "shared_expert_intermediate_size": 6, "num_experts": 4}
    config = Qwen2MoeConfig(**GROUPED_QUERIES, **sizes, num_experts_per_tok=2, mlp_only_layers=[0])
    return with_experts(Qwen2MoeForCausalLM(config))


def with_experts(model: PreTrainedModel) -> PreTrainedModel:
    model.set_experts_implementation("eager")  # the fused kernels have no float64
    return frozen(model)


ARCHITECTURES = {"gpt2": gpt2, "llama": llama, "llama_tied": lambda: llama(tied=True), "neox": neox}
SCALED_LOGITS = {"gemma2": gemma2, "cohere": cohere, "granite": granite}
"""Their logits are more than the head's product with the last hidden state."""
EXPERTS = {"mixtral": mixtral, "qwen2_moe": qwen2_moe}


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
