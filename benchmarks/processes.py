"""One process for each job.

On the CPU it is forked from a server that has imported the libraries and computed nothing: as fresh as one that has
just started, without seconds of imports each time. With a GPU it is started from scratch, as CUDA does not survive a
fork. The bergson subject runs under an interpreter of its own, and another commit of this project in processes that
are started in the same way by a program that imports its code.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

from benchmarks.cases import EARLIER, Job

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ["benchmarks.ours", "benchmarks.training_step", "benchmarks.peer_kronfluence", "benchmarks.run_job"]
SERVER = ROOT / "benchmarks" / "serve_jobs.py"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class JobError(Exception):
    """A job's process failed; its last words."""


class Processes:
    """Starts jobs, one at a time."""

    def __init__(self, *, device: str, threads: int, bergson_python: str, against: Path | None = None) -> None:
        os.environ.update(dict.fromkeys(THREADS, str(threads)))
        # A thread that waits for another would otherwise spin, and what else runs on the machine would be measured.
        os.environ |= {
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        self._bergson_python = bergson_python
        self._earlier = None if against is None else Checkout(against, device)
        self._context: ForkServerContext | SpawnContext
        if device == "cpu":
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(LIBRARIES)
        else:
            self._context = multiprocessing.get_context("spawn")

    def close(self) -> None:
        """End what outlives the jobs."""
        if self._earlier is not None:
            self._earlier.close()

    def run(self, job: Job, *more: str) -> dict[str, Any]:
        """What the job found.

        Raises:
            JobError: it failed.
        """
        result = Path(job.folder) / "result.json"
        result.unlink(missing_ok=True)
        if job.subject == "bergson":
            self._run_bergson(job, result)
        elif job.subject == EARLIER:
            self._run_earlier(job, result)
        else:
            self._run_here(job, result, more)
        found: dict[str, Any] = json.loads(result.read_text())
        if "error" in found:
            raise JobError(found["error"])
        return found

    def _run_here(self, job: Job, result: Path, more: tuple[str, ...]) -> None:
        from benchmarks.run_job import execute

        process = self._context.Process(target=execute, args=(job.to_json(), str(result), *more))
        process.start()
        process.join()
        if not result.exists():
            raise JobError(f"ended by signal or exit code {process.exitcode}")

    def _run_earlier(self, job: Job, result: Path) -> None:
        if self._earlier is None:
            raise JobError("no --against was given")
        self._earlier.run(job.of_earlier(), result)

    def _run_bergson(self, job: Job, result: Path) -> None:
        if not self._bergson_python:
            raise JobError("no --bergson-python was given")
        command = [self._bergson_python, "-m", "benchmarks.peer_bergson", job.to_json(), str(result)]
        ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if ended.returncode:
            raise JobError((ended.stderr.strip() or str(ended.returncode)).splitlines()[-1])


class Checkout:
    """Another commit of this project: its code alone runs its jobs."""

    def __init__(self, folder: Path, device: str) -> None:
        found = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        path = [str(folder), *(entry for entry in found if Path(entry).resolve() != ROOT)]
        # -P: neither the current folder nor the program's comes before the checkout.
        command = [sys.executable, "-P", str(SERVER), device, *LIBRARIES]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        self._server = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, job: Job, result: Path) -> None:
        """Run a job of its own.

        Raises:
            JobError: it left no result.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        if self._server.poll() is None:
            print(json.dumps([job.to_json(), str(result)]), file=self._server.stdin)
        answer = self._server.stdout.readline().strip()
        if not result.exists():
            raise JobError(f"ended by signal or exit code {answer}" if answer else "its checkout cannot be used")

    def close(self) -> None:
        """End the program that starts its jobs."""
        self._server.communicate()
