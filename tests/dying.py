"""A process that ends by SIGKILL at a step that is named, so that no test has to catch the moment from outside."""

import os
import signal
import sys
from fnmatch import fnmatch


def kill_at(event: str, path: str, occurrence: int = 1) -> None:
    """Kill this process, with all that it started, just before it does something to a file.

    Args:
        event: what it does, an audit event of Python such as `open` or `os.rename`.
        path: a pattern of the file's whole path; a star stands for slashes too.
        occurrence: which of the times that this happens, from 1.
    """
    seen = 0

    def hook(happens: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if happens == event and fnmatch(_path(arguments[0]), path):
            seen += 1
            if seen == occurrence:
                os.killpg(os.getpgid(0), signal.SIGKILL)

    sys.addaudithook(hook)


def _path(argument: object) -> str:
    return os.fsdecode(argument) if isinstance(argument, str | bytes | os.PathLike) else ""
