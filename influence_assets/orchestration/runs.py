"""The runs of a study's job: their names, the locks that their processes hold, and runs whose process has died."""

from contextlib import ExitStack
from pathlib import Path

import dagster as dg

from influence_assets.durable import locks
from influence_assets.storage.backend import open_backend
from influence_assets.study import Study

EARLIER_TAG = "influence/process"
"""The tag by which releases before this one named a run's process. None of those is alive when this one runs."""

_held: dict[Path, ExitStack] = {}
"""The locks of the runs of this process, which the operating system releases however the process ends."""


def job_name(study: Study) -> str:
    """Return the name of the job that brings a study up to date."""
    return f"{study.name}_bring_up_to_date"


def handled_key(study: Study) -> str:
    """Return the key under which Dagster's instance keeps the fingerprint of the files that the last run handled."""
    return f"influence/{study.name}/handled"


def hold_run(study: Study, run_id: str) -> None:
    """Lock a run for as long as this process lives, so that others can see when it has died.

    A process's number would not tell: it is given to others later, and means nothing on another host or in another
    container that shares the store.
    """
    path = _lock_path(study, run_id)
    for ended in list(_held):  # runs of the same process come one after the other
        _held.pop(ended).close()
        ended.unlink(missing_ok=True)
    stack = ExitStack()
    stack.enter_context(locks.locked(path))
    _held[path] = stack


def end_dead_runs(study: Study, instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process has died, because nothing else ends runs of the command."""
    started = dg.RunsFilter(job_name=job_name(study), statuses=[dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(filters=started):
        lock = _lock_path(study, run.run_id)
        # Without a lock it has only just begun, unless an earlier release began it.
        if (lock.exists() and not locks.is_held(lock)) or EARLIER_TAG in run.tags:
            instance.report_run_failed(run, "Its process has ended. What it computed is kept; the next run continues.")
            lock.unlink(missing_ok=True)


def _lock_path(study: Study, run_id: str) -> Path:
    return open_backend(study.storage.root).local_root / ".cache" / "runs" / f"{run_id}.lock"
