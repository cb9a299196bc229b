"""Real processes that end by SIGKILL at a point that can be asked for again, without the seconds of torch's import.

They are forked from a server that has imported everything and executed nothing, so that no pool of threads is cut off
by the fork. A child counts what it does to the files of a store (it is told of each step just before it is taken) and
kills itself at the one that is named; or it is killed from outside after a while, which hits native code as well.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PRELOADED = "tests.faults.preloaded"
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR
LONGEST_SECONDS = 900

context = multiprocessing.get_context("forkserver")
"""Makes what processes wait for one another with."""


@dataclass(frozen=True)
class Kill:
    """When a process dies.

    Args:
        step: just before its step of this number below the store, from 1.
        seconds: or after so long.
        since: steps count from the first that concerns a path of this pattern; a star stands for slashes too.
    """

    step: int | None = None
    seconds: float | None = None
    since: str = "*"


@dataclass(frozen=True)
class Ended:
    """What became of a process.

    Args:
        killed: whether it was killed before it was done.
        steps: how many steps below the store it took.
        answer: what its function returned.
    """

    killed: bool
    steps: int
    answer: Any


class Process:
    """A function in a process of its own.

    Args:
        function: importable, as its arguments and its answer are.
        arguments: of it.
        below: the folder whose steps count.
        kill: when it shall die.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, below: Path, kill: Kill | None = None) -> None:
        self._kill = kill or Kill()
        self._answers, answer = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_live, args=(function, arguments, str(below), self._kill, answer)
        )
        _start(self._process)
        answer.close()

    def ended(self) -> Ended:
        """Wait for its end.

        Raises:
            AssertionError: its function raised something.
        """
        if self._kill.seconds is not None:
            self._process.join(self._kill.seconds)
            self._process.kill()
        try:
            if self._answers.poll(LONGEST_SECONDS):
                steps, answer, error = self._answers.recv()
                self._process.join(LONGEST_SECONDS)
                assert error is None, error
                return Ended(killed=False, steps=steps, answer=answer)
            raise AssertionError(f"not done after {LONGEST_SECONDS} s")
        except EOFError:
            self._process.join(LONGEST_SECONDS)
            assert self._process.exitcode == -signal.SIGKILL, self._process.exitcode
            return Ended(killed=True, steps=0, answer=None)
        finally:
            self._process.kill()

    @property
    def is_alive(self) -> bool:
        """Whether it has neither answered nor ended."""
        return self._process.is_alive() and not self._answers.poll()


def live(function: Callable[..., Any], *arguments: Any, below: Path, kill: Kill | None = None) -> Ended:
    """A function in a process of its own, to its end."""
    return Process(function, *arguments, below=below, kill=kill).ended()


def _start(process: BaseProcess) -> None:
    """Start it; the server of forks, which the first one starts, finds this project by the environment alone."""
    context.set_forkserver_preload([PRELOADED])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        process.start()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _live(function: Callable[..., Any], arguments: tuple[Any, ...], below: str, kill: Kill, answer: Connection) -> None:
    # The server swallows what an import raises, and another one may have been running: asked for again, it says so.
    importlib.import_module(PRELOADED)
    counter = _Counter(below, kill)
    sys.addaudithook(counter)
    found, error = None, None
    try:
        found = function(*arguments)
    except BaseException:
        error = traceback.format_exc()
    counter.is_on = False
    answer.send((counter.steps, found, error))
    answer.close()


class _Counter:
    """An audit hook."""

    def __init__(self, below: str, kill: Kill) -> None:
        self._below = below
        self._kill_at = kill.step
        self._since = kill.since
        self._has_begun = kill.since == "*"
        self.steps = 0
        self.is_on = True

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and self._is_step(event, arguments):
            self._has_begun = self._has_begun or fnmatch(str(arguments[0]), self._since)
            self.steps += self._has_begun
            if self._has_begun and self.steps == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def _is_step(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "fcntl.flock":
            return True
        if event == "open":
            return bool(arguments[2] & WRITING) and self._is_below(arguments[0])
        if event in CHANGES:
            return any(self._is_below(argument) for argument in arguments[:2])
        return event.startswith(("sqlite3.connect", "shutil.")) and self._is_below(arguments[0])

    def _is_below(self, path: Any) -> bool:
        # Inside rmtree names are relative to an open folder; every step of those counts.
        try:
            name = os.fsdecode(path)
        except TypeError:
            return False
        return not name.startswith("/") or name.startswith(self._below)
