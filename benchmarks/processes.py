"""One process for each job.

On the CPU it is forked from a server that has imported the libraries and computed nothing: as fresh as one that has
just started, without seconds of imports each time. With a GPU it is started from scratch, as CUDA does not survive a
fork. The bergson subject runs under an interpreter of its own.
"""

import json
import multiprocessing
import os
import subprocess
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

from benchmarks.cases import Job

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ["benchmarks.ours", "benchmarks.training_step", "benchmarks.peer_kronfluence", "benchmarks.run_job"]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class JobError(Exception):
    """A job's process failed; its last words."""


class Processes:
    """Starts jobs, one at a time."""

    def __init__(self, *, device: str, threads: int, bergson_python: str) -> None:
        os.environ.update(dict.fromkeys(THREADS, str(threads)))
        # A thread that waits for another would otherwise spin, and what else runs on the machine would be measured.
        os.environ |= {
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        self._bergson_python = bergson_python
        self._context: ForkServerContext | SpawnContext
        if device == "cpu":
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(LIBRARIES)
        else:
            self._context = multiprocessing.get_context("spawn")

    def run(self, job: Job, *more: str) -> dict[str, Any]:
        """What the job found.

        Raises:
            JobError: it failed.
        """
        result = Path(job.folder) / "result.json"
        result.unlink(missing_ok=True)
        if job.subject == "bergson":
            self._run_bergson(job, result)
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

    def _run_bergson(self, job: Job, result: Path) -> None:
        if not self._bergson_python:
            raise JobError("no --bergson-python was given")
        command = [self._bergson_python, "-m", "benchmarks.peer_bergson", job.to_json(), str(result)]
        ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if ended.returncode:
            raise JobError((ended.stderr.strip() or str(ended.returncode)).splitlines()[-1])
