"""The largest resident memory of this process while something runs.

Systems report the largest since the process began, which says nothing of what comes later. So a thread looks now and
then while somebody wants to know.
"""

import os
import threading
import time
import weakref
from functools import lru_cache

import psutil

SECONDS_BETWEEN = 0.02


@lru_cache(maxsize=1)
def _process(pid: int) -> psutil.Process:
    return psutil.Process(pid)


def resident_bytes() -> int:
    """Return the memory that this process takes now."""
    return int(_process(os.getpid()).memory_info().rss)


class PeakMemory:
    """The largest resident memory of this process since this object was made."""

    def __init__(self) -> None:
        self._largest = resident_bytes()
        _sampler(os.getpid()).watch(self)

    def note(self, resident: int) -> None:
        """Take note of what is resident at this moment, in bytes."""
        self._largest = max(self._largest, resident)

    def bytes(self) -> int:
        """Return the largest so far."""
        self.note(resident_bytes())
        return self._largest


class _Sampler:
    """A thread that tells all that still exist of what it watches; it sleeps while there are none."""

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[PeakMemory] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_watching = threading.Event()
        threading.Thread(target=self._run, name="peak memory", daemon=True).start()

    def watch(self, peak: PeakMemory) -> None:
        with self._lock:
            self._watched.add(peak)
            self._is_watching.set()

    def _run(self) -> None:
        while True:
            self._is_watching.wait()
            with self._lock:
                watched = list(self._watched)
                if not watched:
                    self._is_watching.clear()
            resident = resident_bytes()
            for peak in watched:
                peak.note(resident)
            del watched  # else they would never cease to exist
            time.sleep(SECONDS_BETWEEN)


@lru_cache(maxsize=1)
def _sampler(pid: int) -> _Sampler:  # noqa: ARG001  # a process that was forked has none of its parent's threads
    return _Sampler()
