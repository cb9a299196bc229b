"""Dagster's UI, started for real, and asked over GraphQL as its own pages ask."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 900
"""How long anything may take before it counts as hanging, on the slowest of machines."""
STARTED = """
{ workspaceOrError { __typename ... on Workspace { locationEntries { name loadStatus
  locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""
SELECTOR = {"repositoryLocationName": "influence_assets", "repositoryName": "__repository__"}


class Server:
    """A running UI.

    Args:
        url: where it listens.
        log: what it and its daemon print.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a GraphQL query; an error of it is one of the test."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.loads(response.read())
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def wait(self, look: Callable[[], Any]) -> Any:
        """What `look` returns once that is true."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not (found := self._looked(look)):
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing in {LONGEST_SECONDS} s:\n{self.seen()}\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)
        return found

    def seen(self) -> str:
        """The state of the code locations, for the message of a test that fails."""
        try:
            return json.dumps(self.ask(STARTED))[-4000:]
        except OSError as error:
            return f"It does not answer: {error}"

    def _looked(self, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None  # not listening yet

    def is_loaded(self) -> bool:
        """Whether the code location is loaded. While its server starts, an error may stand in its place for a time."""
        entries = self.ask(STARTED)["workspaceOrError"].get("locationEntries", [])
        loaded = [entry["name"] for entry in entries if entry["loadStatus"] == "LOADED" and not is_error(entry)]
        return loaded == ["influence_assets"]


def is_error(entry: Mapping[str, Any]) -> bool:
    """Whether what was loaded is an error instead of a code location."""
    return entry["locationOrLoadError"]["__typename"] != "RepositoryLocation"


@contextmanager
def serving(*command: str, folder: Path, port: int, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Start a command that serves the UI on a port, and end it with all its processes."""
    log = folder / "server.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment or {}),
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", log)
        server.wait(server.is_loaded)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def influence(*arguments: str) -> list[str]:
    """The command line of our command."""
    return [sys.executable, "-c", "from influence_assets.cli import main; main()", *arguments]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
