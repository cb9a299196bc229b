"""The command `influence` as a person meets it: what it prints and the code that it ends with."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import influence_assets.cli.console
from influence_assets.cli import main

LONGEST_SECONDS = 900
"""How long a process may take before it counts as hanging, on the slowest of machines."""


@dataclass(frozen=True)
class Finished:
    """A finished command.

    Args:
        code: its exit code.
        out: what it printed.
        err: what it printed as an error.
    """

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error as one line."""
        return " ".join(self.err.split())


class _Exited(BaseException):
    """In the place of os._exit, which would end the tests."""


def _exit(code: int) -> None:
    raise _Exited(code)


def influence(*arguments: str | Path, width: int = 200) -> Finished:
    """Run the command in this process, from its entry point to the exit code."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["influence", *map(str, arguments)]),
        mock.patch.object(os, "_exit", _exit),
        mock.patch.object(influence_assets.cli.console.console, "_width", width),  # it writes to what sys.stdout is now
        mock.patch.dict(os.environ, {"COLUMNS": str(width)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        os.environ.pop("DAGSTER_HOME", None)
        try:
            main()
        except _Exited as exited:
            (code,) = exited.args
    return Finished(code, out.getvalue(), err.getvalue())


def influence_process(
    *arguments: str | Path,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    killed_at: tuple[str, str, int] | None = None,
) -> subprocess.Popen[str]:
    """Start the command in a process of its own.

    Args:
        arguments: what follows `influence`.
        folder: where it is started.
        environment: what is added to the environment.
        killed_at: the step that it does not survive; see `dying.kill_at`.
    """
    dying = "" if killed_at is None else f"from tests.dying import kill_at; kill_at(*{killed_at!r}); "
    return subprocess.Popen(
        [sys.executable, "-c", f"{dying}from influence_assets.cli import main; main()", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200"} | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> Finished:
    """Wait for a process to end; one that hangs is killed."""
    try:
        out, err = process.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"not done after {LONGEST_SECONDS} s: {out}{err}") from None
    return Finished(process.returncode, out, err)


def killed(process: subprocess.Popen[str]) -> None:
    """Wait for a process that kills itself at a named step.

    Raises:
        AssertionError: it ended otherwise.
    """
    ended = finished(process)
    assert ended.code == -signal.SIGKILL, ended.out + ended.err
