"""A tiny model of each causal architecture that transformers has, made from its configuration class alone.

Sizes have many names; a configuration gets those that it knows. What an architecture needs besides is in `ALSO`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests import adapters
from tests.cases import CONTEXT, VOCABULARY, frozen

WIDTH = 16
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), CONTEXT),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 24),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
         "num_decoder_layers"), 2
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "encoder_attention_heads"), 4
    ),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "type_vocab_size"), 2),
    **dict.fromkeys(
        ("head_dim", "num_experts", "num_local_experts", "n_routed_experts", "qk_nope_head_dim", "qk_rope_head_dim",
         "v_head_dim", "state_size", "mamba_d_state", "mamba_n_heads", "linear_num_key_heads",
         "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim", "rotary_dim"), 4
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "mamba_d_head"), 8),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "sliding_window"), 6),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts", "mamba_n_groups"), 1),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
    "pad_token_id": None,
    "conv_kernel": 3,
    "initializer_range": 0.4,
    "is_decoder": True,
}  # fmt: skip

ONE_HEAD_FOR_EACH_KEY = {"num_key_value_heads": 4}

PADDED = {"pad_token_id": 1}
WITH_A_CONTEXT = {"max_position_embeddings": CONTEXT}

AFTER_PADDING = {"pad_token_id": 1, "max_position_embeddings": CONTEXT + 2}
"""Positions are counted from the padding's id on, as in RoBERTa."""

ALSO: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
                    AFTER_PADDING),
    **dict.fromkeys(("emu3", "modernbert-decoder", "xglm", "xlm", "prophetnet"), PADDED),
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
                     "longcat_flash", "minicpm3", "youtu", "dots3_note", "dots3_note_text"), ONE_HEAD_FOR_EACH_KEY),
    **dict.fromkeys(("bloom", "cpmant", "falcon_mamba", "mamba", "recurrent_gemma", "xlnet", "xlstm"),
                    WITH_A_CONTEXT),
    "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 1, "max_position_embeddings": CONTEXT},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 6},
    "falcon_h1": {"mamba_d_ssm": 32},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "zaya": {"num_experts_per_tok": 1},
    "xmod": {**AFTER_PADDING, "default_language": "en_XX"},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY,
                     "hidden_size_per_layer_input": 8},
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
                    "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 6},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 8, "n_groups": 1, "ssm_state_size": 4},
    "deepseek_v4": {"head_dim": 8},
}  # fmt: skip
"""What an architecture needs besides. Some say nothing about a context length; in config.json it can be added."""


VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "phi3, LongRoPE": (
        "phi3",
        {
            "original_max_position_embeddings": 8,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.0], "long_factor": [3.0, 5.0],
            },
        },
    ),
    "olmo, clip_qkv": ("olmo", {"clip_qkv": 0.4}),
    "llama, LoRA": ("llama", {}),
    "gpt2, LoRA": ("gpt2", {}),
}  # fmt: skip
"""Architectures whose computation a setting or an adapter changes."""

UNTRIED: Mapping[str, str] = {
    **dict.fromkeys(("gemma3n", "gemma4", "gemma4_unified", "git", "emu3", "fuyu", "got_ocr2", "mllama", "musicgen",
                     "musicgen_melody", "phi4_multimodal", "moss_transcribe_diarize"), "reads more than text"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model"),
    **dict.fromkeys(("blt", "cohere_compass_text", "cpmant", "dbrx", "inkling2_text", "kimi_linear", "xglm", "xlnet",
                     "reformer", "zamba", "zamba2", "inkling_text"), "no tiny model of it is made here"),
}  # fmt: skip


def names() -> list[str]:
    """Return each architecture that transformers loads as a causal language model once, and the variants."""
    by_class: dict[str, list[str]] = {}
    for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if kind not in UNTRIED:
            by_class.setdefault(name, []).append(kind)
    return sorted([*(_best_known(name, kinds) for name, kinds in by_class.items()), *VARIANTS])


def _best_known(class_name: str, kinds: list[str]) -> str:
    """Return the kind that the class is called after, else the first: LlamaForCausalLM is llama before code_llama."""
    called = [kind for kind in kinds if class_name.lower().startswith(kind.replace("_", "").replace("-", ""))]
    return max(called, key=len, default=kinds[0])


def config_of(kind: str, **settings: Any) -> PreTrainedConfig:
    text = AutoConfig.for_model(kind).get_text_config()
    known = set(text.to_dict()) | set(text.attribute_map)
    aliases = text.attribute_map
    sizes = {name: value for name, value in SIZES.items() if name in known}
    for name, value in {**ALSO.get(kind, {}), **settings}.items():
        sizes.pop(aliases.get(name, name), None)
        sizes[name] = value
    sizes = {name: value for name, value in sizes.items() if aliases.get(name) not in sizes}
    return type(text)(**sizes)


def tiny(name: str, **settings: Any) -> PreTrainedModel:
    """Return the model, frozen, in float64; the fused kernels of experts have none."""
    kind, own = VARIANTS.get(name, (name, {}))
    torch.manual_seed(0)
    build: Any = AutoModelForCausalLM.from_config
    model: PreTrainedModel = build(config_of(kind, **own, **settings))
    model.set_experts_implementation("eager")
    model.config.use_cache = False
    if name.endswith("LoRA"):
        adapters.add(model)
    return frozen(model)
