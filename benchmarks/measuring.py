"""Clocks and peak memory of the measured part of a process."""

import ctypes
import gc
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

CLEAR_PEAK = "5"
"""Written to /proc/self/clear_refs: the peak begins anew (man 5 proc)."""


@dataclass
class Clock:
    """What the measured part took, as a whole and by named part.

    Processor time is that of all threads of the process, the system's share included.
    """

    device: str
    parts: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what is done inside to the part of that name."""
        cpu, wall = self._now()
        yield
        ended_cpu, ended_wall = self._now()
        sums = self.parts.setdefault(name, {"cpu_seconds": 0.0, "wall_seconds": 0.0})
        sums["cpu_seconds"] += ended_cpu - cpu
        sums["wall_seconds"] += ended_wall - wall

    @contextmanager
    def measured(self) -> Iterator[dict[str, Any]]:
        """Measure the whole; what comes out holds the figures once the block has ended."""
        found: dict[str, Any] = {}
        gc.collect()
        hand_back_freed_memory()
        before = self._forget_peak()
        cpu, wall = self._now()
        yield found
        ended_cpu, ended_wall = self._now()
        found |= {
            "cpu_seconds": ended_cpu - cpu,
            "wall_seconds": ended_wall - wall,
            "peak_memory_bytes": self._peak(),
            "memory_before_bytes": before,
            "parts": self.parts,
        }

    def _now(self) -> tuple[float, float]:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()

    def _forget_peak(self) -> int:
        """Begin the peak anew, so that setting up does not count; returns the memory in use now."""
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text(CLEAR_PEAK)
        return _status("VmRSS")

    def _peak(self) -> int:
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated()
        return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hand_back_freed_memory() -> None:
    """So that what the warm-up took and freed does not count as this stage's. Without glibc nothing happens."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """What this process has in memory now."""
    return _status("VmRSS")


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes; 0 where there is none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def matmul_rate(device: str, dtype: torch.dtype, width: int = 2048) -> float:
    """Operations a second of a square matrix product: the best of five, after one to warm up."""
    width = 8192 if device.startswith("cuda") else width
    a = torch.randn(width, width, device=device, dtype=dtype)
    clock, best = Clock(device), float("inf")
    for _ in range(6):
        clock.parts.clear()
        with clock.part("product"):
            a @ a
        best = min(best, clock.parts["product"]["wall_seconds"])
    return 2 * width**3 / best


def bytes_of(*places: Path) -> int:
    """What lies below some paths, in bytes."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files)
