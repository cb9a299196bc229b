"""What tells that a file was not written since: content decides, never a time stamp that can be set back.

The operating system sets the time of the last change (`st_ctime_ns`) on every write and offers no way to set it back,
as there is for the time of modification. A file that changed so lately that a further write could leave the same time
is not settled, and what was read of it counts once.
"""

import os
import time
from pathlib import Path

# Two writes within a tick of the file system's clock leave the same times; no known tick is longer.
_CLOCK_GRAIN_NS = 2_000_000_000

Identity = list[int]
"""Device, inode, size, time of modification and, last, time of change: all that a rewritten file cannot keep."""


def identity(stat: os.stat_result) -> Identity:
    """Return the identity of a file that was looked at."""
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def identity_at(path: str | Path) -> Identity | None:
    """Return the identity of the file at a path; None where it cannot be looked at."""
    try:
        return identity(os.stat(path))  # noqa: PTH116  # thousands of them
    except OSError:
        return None


def is_settled(of: Identity) -> bool:
    """Whether a write from now on changes the identity; not if the last one is recent, or in a clock's future."""
    return time.time_ns() - of[-1] >= _CLOCK_GRAIN_NS
