"""The peak of what runs now, and not of what ran before it."""

import gc
import threading
import time
import weakref

import numpy as np

from influence_assets.storage.artifacts.peak_memory import PeakMemory, resident_bytes

MIB = 2**20
PATIENCE = 60
"""Seconds that a busy machine may take to let the thread look."""


def eventually(holds):
    """Wait until it holds, and say whether it did."""
    ends = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < ends:
        time.sleep(0.01)
    return holds()


def hold(mebibytes, peak):
    """Fill memory until the thread has seen it, and free it."""
    filled = np.ones(mebibytes * MIB // 8)
    resident = resident_bytes()
    assert eventually(lambda: peak._largest >= resident - MIB)
    del filled


def test_what_was_freed_before_does_not_count():
    whole = PeakMemory()
    hold(300, whole)
    later = PeakMemory()
    hold(50, later)
    assert whole.bytes() - later.bytes() > 150 * MIB
    assert later.bytes() >= resident_bytes() - MIB


def test_what_is_freed_again_counts():
    before, peak = resident_bytes(), PeakMemory()
    hold(300, peak)
    assert peak.bytes() - before > 250 * MIB
    assert resident_bytes() - before < 200 * MIB


def test_a_window_that_nobody_needs_is_let_go_and_one_thread_serves_all():
    peaks = [weakref.ref(PeakMemory()) for _ in range(5)]

    def are_gone():
        gc.collect()
        return all(peak() is None for peak in peaks)

    assert eventually(are_gone)
    assert sum(thread.name == "peak memory" for thread in threading.enumerate()) == 1
