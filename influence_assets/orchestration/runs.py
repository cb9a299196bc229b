"""The runs of a study's job: their names, the processes that execute them, and those whose process has died."""

import os
import socket

import dagster as dg

from influence_assets.study import Study

PROCESS_TAG = "influence/process"
"""The tag of a run that names the process and host that execute it."""


def job_name(study: Study) -> str:
    """Return the name of the job that brings a study up to date."""
    return f"{study.name}_bring_up_to_date"


def handled_key(study: Study) -> str:
    """Return the key under which Dagster's instance keeps the fingerprint of the files that the last run handled."""
    return f"influence/{study.name}/handled"


def name_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Tag a run with this process, so that others can see when it has died."""
    instance.add_run_tags(run_id, {PROCESS_TAG: f"{os.getpid()}@{socket.gethostname()}"})


def end_dead_runs(study: Study, instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process has died, because nothing else ends runs of the command."""
    started = dg.RunsFilter(job_name=job_name(study), statuses=[dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(filters=started):
        pid, _, host = run.tags.get(PROCESS_TAG, "").partition("@")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            instance.report_run_failed(run, "Its process has ended. What it computed is kept; the next run continues.")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
