"""The peak of what runs now, and not of what ran before it."""

import gc
import threading
import time
import weakref

import numpy as np

from influence_assets.storage.artifacts.peak_memory import SECONDS_BETWEEN, PeakMemory, resident_bytes

MIB = 2**20


def hold(mebibytes):
    held = np.ones(mebibytes * MIB // 8)
    time.sleep(10 * SECONDS_BETWEEN)
    return held


def test_what_was_freed_before_does_not_count():
    whole = PeakMemory()
    hold(300)
    later = PeakMemory()
    hold(50)
    assert whole.bytes() - later.bytes() > 150 * MIB
    assert later.bytes() >= resident_bytes() - MIB


def test_what_is_freed_again_counts():
    before, peak = resident_bytes(), PeakMemory()
    hold(300)
    gc.collect()
    assert peak.bytes() - before > 250 * MIB
    assert resident_bytes() - before < 200 * MIB


def test_a_window_that_nobody_needs_is_let_go_and_one_thread_serves_all():
    peaks = [weakref.ref(PeakMemory()) for _ in range(5)]
    time.sleep(10 * SECONDS_BETWEEN)
    gc.collect()
    assert [peak() for peak in peaks] == [None] * 5
    assert sum(thread.name == "peak memory" for thread in threading.enumerate()) == 1
