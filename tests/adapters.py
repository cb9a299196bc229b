"""Adapters of PEFT whose matrices all matter: a fresh LoRA has zeros in B, and computes nothing."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

RANK = 3


def lora(**settings: Any) -> LoraConfig:
    """A LoRA of all linear layers but the head."""
    return LoraConfig(**{"r": RANK, "lora_alpha": 6, "target_modules": "all-linear", **settings})


def add(model: PreTrainedModel) -> None:
    """Put a LoRA beside the layers of a model in memory."""
    names = [name for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    targets = sorted({name.rpartition(".")[2] for name in names} - {"lm_head"})
    inject_adapter_in_model(lora(target_modules=targets), model)
    randomise(model)


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)


def write(base: PreTrainedModel, folder: Path, config: Any = None) -> Path:
    """Save an adapter of a model as PEFT does, with what PEFT takes for the model's name."""
    wrapped = get_peft_model(base, lora() if config is None else config)
    randomise(wrapped)
    wrapped.save_pretrained(folder)
    return folder
