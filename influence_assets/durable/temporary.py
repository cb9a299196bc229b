"""Names of temporary files and folders: hidden, beside the final path, and naming the process that made them.

Some digits of such a name are a checksum of the rest, so that nobody else's `.draft-…` is ever taken for this product's
and removed.
"""

import hashlib
import os
import re
import socket
from pathlib import Path
from uuid import uuid4

from influence_assets.durable import locks
from influence_assets.durable.names import safe_name

_NAME = re.compile(r"\.draft-(?P<random>[0-9a-f]{24})(?P<check>[0-9a-f]{8})-(?P<whose>(?P<pid>\d+)-(?P<host>.+))")


def temporary_beside(path: Path) -> Path:
    """Return a new hidden path beside a path; its name contains this process's number and its host."""
    return path.parent / temporary_name(f"{os.getpid()}-{safe_name(socket.gethostname())}")


def temporary_name(whose: str) -> str:
    """Return a new temporary name; `whose` is a process's number and its host, such as `12-here`."""
    random = uuid4().hex[:24]
    return f".draft-{random}{_checksum(random, whose)}-{whose}"


def is_temporary_name(name: str) -> bool:
    """Return whether `temporary_name` made a name, in whatever process."""
    match = _NAME.fullmatch(name)
    return match is not None and match["check"] == _checksum(match["random"], match["whose"])


def is_abandoned(path: Path) -> bool:
    """Return whether the process that made a temporary file or folder ran on this host and has ended.

    A process on another host may still be alive. A process in another container may be alive although its number is
    free here; it then still holds its folder.
    """
    match = _NAME.fullmatch(path.name) if is_temporary_name(path.name) else None
    if match is None or match["host"] != safe_name(socket.gethostname()):
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return not locks.is_held(path)
    except (PermissionError, OverflowError):
        return False
    return False


def remove_abandoned_beside(path: Path) -> None:
    """Remove the temporary files that ended processes left in a file's folder.

    Raises:
        OSError: a file cannot be removed.
    """
    for abandoned in [beside for beside in path.parent.iterdir() if is_abandoned(beside)]:
        abandoned.unlink(missing_ok=True)


def _checksum(random: str, whose: str) -> str:
    return hashlib.sha256(f"a draft of influence-assets {random} {whose}".encode()).hexdigest()[:8]
