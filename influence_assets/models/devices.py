"""The devices that a model computes on, their speed, and the use of freed memory."""

import ctypes
import math
import platform
import time

import torch
from transformers import PreTrainedModel

from influence_assets.errors import InputError
from influence_assets.models.dimensions import input_embedding
from influence_assets.study import Dtype

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

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


def keep_freed_memory(*, is_limited: bool = False) -> None:
    """Let this process keep the memory of freed tensors instead of returning it to the system.

    Otherwise glibc returns a pass's large tensors every time, and getting them back page by page takes about a fifth of
    a small model's training step. But what is kept lies in pieces between tensors that live on: where memory is
    limited, it is returned. Without glibc, nothing happens. The setting affects the whole process, so make it only in
    processes that compute.

    Args:
        is_limited: whether the study limits the memory of the process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, (1 if is_limited else 32) * 2**20)
    libc.mallopt(_M_TRIM_THRESHOLD, (64 if is_limited else 512) * 2**20)


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
