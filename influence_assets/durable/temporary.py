"""Names of what is half written: hidden, beside the place where it belongs, and telling whose it is.

Some digits of such a name are a checksum of the rest. So nothing that somebody else calls `.draft-…` is ever taken for
this product's and removed.
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
    """Return a new name for a hidden file or folder beside a path; it names this process and host."""
    return path.parent / temporary_name(f"{os.getpid()}-{safe_name(socket.gethostname())}")


def temporary_name(whose: str) -> str:
    """Return a new name; `whose` is a process's number and its host, such as `12-here`."""
    random = uuid4().hex[:24]
    return f".draft-{random}{_checksum(random, whose)}-{whose}"


def is_temporary_name(name: str) -> bool:
    """Whether a name was made here, in whatever process."""
    match = _NAME.fullmatch(name)
    return match is not None and match["check"] == _checksum(match["random"], match["whose"])


def is_abandoned(path: Path) -> bool:
    """Whether the process that made a temporary file or folder ran on this host and has ended.

    One of another host may still be alive. A number that is free here may be that of a process in another container,
    which then still holds its folder.
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
    """Remove what processes that have ended left half written in a file's folder.

    Raises:
        OSError: the disk refuses.
    """
    for left in [beside for beside in path.parent.iterdir() if is_abandoned(beside)]:
        left.unlink(missing_ok=True)


def _checksum(random: str, whose: str) -> str:
    return hashlib.sha256(f"a draft of influence-assets {random} {whose}".encode()).hexdigest()[:8]
