"""The devices that a model computes on, and their speed."""

import math
import time

import torch
from transformers import PreTrainedModel

from influence_assets.errors import InputError
from influence_assets.models.dimensions import input_embedding
from influence_assets.study import Dtype

SECONDS_OF_A_RATE = 0.2
"""The longest that a measurement of the rate takes, unless a single product takes longer."""


def resolve_device(device: str) -> str:
    """Return the device that the study names; for `auto`, the first available of cuda, mps and cpu.

    Raises:
        InputError: the study names a device that this machine lacks.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device != "auto":
        kind, _, index = device.partition(":")
        if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
            usable = ", ".join(name for name, is_available in available.items() if is_available)
            raise InputError("compute.device", f"there is no {device} here", f"Give auto or one of: {usable}.")
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def input_device(model: PreTrainedModel) -> torch.device:
    """Return the device that a model expects its tokens on; for a spread model, that of its first part."""
    return input_embedding(model).device


def matrix_rate(device: str, dtype: Dtype) -> float:
    """Return the operations per second of a square matrix product on this device, measured within a second."""
    width = 512 if device == "cpu" else 8192
    a, b = (torch.randn(width, width, device=device).to(getattr(torch, dtype)) for _ in range(2))
    ends, best = time.perf_counter() + SECONDS_OF_A_RATE, math.inf
    while (started := time.perf_counter()) < ends or best == math.inf:
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * width**3 / best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
