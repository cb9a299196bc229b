"""The memory that this process can still take: what the machine has left, within the limits of its control groups.

A container is a control group of Linux: the machine's own figures say nothing of its limit, and a process that goes
beyond it is killed. Both versions of control groups are read (Linux's documentation, admin-guide/cgroup-v2 and -v1).
"""

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")


def available_memory(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Return the bytes of memory that this process can still take.

    Args:
        proc: where Linux tells of memory and processes; elsewhere, the machine's total is returned.
        groups: where control groups are mounted.
    """
    return max(0, min([_of_machine(proc), *_of_groups(proc, groups)]))


def _of_machine(proc: Path) -> int:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Yield what each control group that the process is in has left; groups are nested, and each may have a limit."""
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, group = line.split(":", maxsplit=2)
        if not controllers:
            yield from _left(groups, group, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _left(groups / "memory", group, *names)


def _left(root: Path, group: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    folder = root / group.lstrip("/")
    # Inside a container its own group is often mounted as the root, and the path that the process knows does not exist.
    nested = [folder, *folder.parents] if folder.is_relative_to(root) and folder.is_dir() else [root]
    for each in nested:
        most, used = _number(each / limit), _number(each / usage)
        if most is not None and used is not None:
            # The kernel drops cached files that are not in use before it refuses memory.
            statistics = dict(line.split() for line in _lines(each / "memory.stat"))
            yield most - used + int(statistics.get(reclaimable, 0))
        if each == root:
            return


def _number(path: Path) -> int | None:
    """Return a file's only number; None if there is no such file or it says `max`."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
