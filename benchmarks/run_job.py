"""One job in a process of its own: sets up, warms up, measures, and writes what it found."""

import importlib
import json
import shutil
import traceback
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks import inputs
from benchmarks.cases import Job
from benchmarks.measuring import Clock, matmul_rate, resident_bytes
from influence_assets.capture.batches import Sequences

SUBJECTS = {
    "ours": ("benchmarks.ours", "Ours"),
    "kronfluence": ("benchmarks.peer_kronfluence", "Kronfluence"),
    "training_step": ("benchmarks.training_step", "TrainingStep"),
}


class Subject(Protocol):
    """What runs stages, with so many sequences in a pass."""

    batch: int

    def run(self, clock: Clock, store: Path, sequences: Sequences, queries: Sequences | None, /) -> int:
        """Run the job's stage; returns the bytes that it left."""
        ...

    def warm(self, store: Path, /) -> None:
        """One small batch."""
        ...


def build_inputs(job: Job, corpus: str, model: str) -> None:
    """In a process too, so that the driver stays small."""
    places = (Path(given) if given else None for given in (corpus, model))
    inputs.build(job.inputs, job.size, job.device, *places)


def run(job: Job) -> dict[str, Any]:
    """The measured figures of a job."""
    torch.set_num_threads(job.threads)
    torch.backends.cuda.matmul.allow_tf32 = job.tf32
    libraries = resident_bytes() if job.device == "cpu" else 0
    module, name = SUBJECTS[job.subject]
    subject: Subject = getattr(importlib.import_module(module), name)(job)
    sequences = inputs.read(job.inputs, inputs.TRAIN, job.size.sequences_of(job.stage))
    asked = inputs.SECOND_QUERIES if job.stage == "second_scores_32" else inputs.QUERIES
    count = job.size.queries_of(job.stage)
    queries = inputs.read(job.inputs, asked, count) if count else None
    store = _fresh(job.store / "total") if job.stage == "total" else _store(job)
    subject.warm(store)
    clock = Clock(job.device)
    with clock.measured() as found:
        left = subject.run(clock, store, sequences, queries)
    return found | {"bytes_on_disk": left, "memory_of_libraries_bytes": libraries, "batch": subject.batch}


def rate(job: Job) -> dict[str, Any]:
    """The card's, or the cores', rate of matrix products."""
    torch.set_num_threads(job.threads)
    torch.backends.cuda.matmul.allow_tf32 = job.tf32
    dtype = torch.bfloat16 if job.dtype == "bfloat16" else torch.float32
    name = torch.cuda.get_device_name() if job.device.startswith("cuda") else "cpu"
    return {"matmul_operations_per_second": matmul_rate(job.device, dtype), "device_name": name}


def _store(job: Job) -> Path:
    """Sampled labels and other variants read and write beside the files that are compared."""
    if not job.variant:
        return job.store
    copied = job.store / job.variant
    shutil.rmtree(copied, ignore_errors=True)
    kept = {"total", *job.store.glob("warm")}
    shutil.copytree(
        job.store, copied, ignore=lambda _folder, names: [n for n in names if n in kept or n == job.variant]
    )
    return copied


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def execute(job: str, result: str, *more: str) -> None:
    """Run a job that is given as JSON; what it found, or why it failed, is written to `result`."""
    given = Job.from_json(job)
    found: dict[str, Any] = {}
    try:
        if given.subject == "inputs":
            build_inputs(given, *more)
        else:
            found = rate(given) if given.subject == "rate" else run(given)
    except Exception as error:  # noqa: BLE001 - the driver decides what a failed job means
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    Path(result).write_text(json.dumps(found))
