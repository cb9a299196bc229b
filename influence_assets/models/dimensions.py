"""Dimensions of a model: its context length, the rows of its embedding, its number of parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from influence_assets.errors import InputError

# Names that architectures use for the number of positions that they were built for.
_CONTEXT_KEYS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length")


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the rows of the input embedding: every token id must be smaller."""
    return input_embedding(model).shape[0]


def context_length(config: PretrainedConfig) -> int:
    """Return the most tokens that the model was built to read at once.

    Raises:
        InputError: the model's config.json does not say.
    """
    text_config = config.get_text_config()
    for key in _CONTEXT_KEYS:
        length = getattr(text_config, key, None)
        if isinstance(length, int) and length > 0:
            return length
    raise InputError(
        "config.json",
        f"does not say how many tokens a {config.model_type} model reads at once",
        "Add max_position_embeddings with the length that it was trained with.",
    )


def length_limits(config: PretrainedConfig) -> tuple[int, ...]:
    """Return the lengths beyond which a model computes something else for all tokens of a sequence, ascending.

    LongRoPE takes other frequencies as soon as one sequence of a batch is longer than what the model was first trained
    with, for all sequences of the batch.
    """
    text_config = config.get_text_config()
    limits = set()
    for parameters in _rope_parameters(getattr(text_config, "rope_parameters", None) or {}):
        if parameters.get("rope_type") == "longrope":
            limit = parameters.get("original_max_position_embeddings")
            limits.add(limit or getattr(text_config, "original_max_position_embeddings", None))
    return tuple(sorted(limit for limit in limits if limit is not None))


def _rope_parameters(parameters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the parameters of rotary positions: of all layers, or of each kind of layer."""
    return [parameters, *(part for part in parameters.values() if isinstance(part, Mapping))]


def input_embedding(model: PreTrainedModel) -> torch.Tensor:
    """Return the weight of the input embedding, [token id, width]."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101  # an embedding's weight is one
    return weight


def total_parameters(model: PreTrainedModel) -> int:
    """Return the number of parameters, counting each shared tensor once."""
    return sum(parameter.numel() for parameter in model.parameters())
