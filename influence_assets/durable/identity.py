"""Identities of files, which change whenever a file is written.

The operating system sets the time of the last change (`st_ctime_ns`) on every write and, unlike the time of
modification, offers no way to set it back. A file that changed so recently that another write could leave the same time
is not settled: what was read from it must not be remembered.
"""

import os
import time
from pathlib import Path

# Two writes within a tick of the file system's clock leave the same times; no known tick is longer.
_CLOCK_GRAIN_NS = 2_000_000_000

Identity = list[int]
"""Device, inode, size, time of modification and, last, time of change: a rewritten file cannot keep all of them."""


def identity(stat: os.stat_result) -> Identity:
    """Return the identity of a file from its stat result."""
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def identity_at(path: str | Path) -> Identity | None:
    """Return the identity of the file at a path; None if the file is missing or inaccessible."""
    try:
        return identity(os.stat(path))  # noqa: PTH116  # a Path is too slow for thousands
    except OSError:
        return None


def is_settled(known: Identity) -> bool:
    """Return whether any write from now on would change an identity: its time of change is far enough in the past."""
    return time.time_ns() - known[-1] >= _CLOCK_GRAIN_NS
