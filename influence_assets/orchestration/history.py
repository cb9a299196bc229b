"""The history of runs that Dagster keeps beside a study's store, and what of it may go."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from influence_assets.orchestration.instance import dagster_home, home_in_store, open_instance
from influence_assets.study import Study

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_OF_ASSETS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}


@dataclass
class Pruned:
    """What was removed of the history of runs.

    Args:
        logs: runs whose logs were removed.
        runs: runs that were removed with all that was known of them.
        bytes: the bytes that were freed.
    """

    logs: int = 0
    runs: int = 0
    bytes: int = 0


def prune_history(study: Study, *, keep: int) -> Pruned:
    """Remove the logs of all but the last runs, and the runs among them that did nothing to an asset.

    What the runs computed stays in the history of the assets, which Dagster keeps elsewhere. An instance outside the
    store is its owner's, and is left alone.

    Args:
        study: the study.
        keep: the number of runs whose logs stay.
    """
    home, pruned = dagster_home(study), Pruned()
    if home != home_in_store(study) or len(_log_files(home)) <= keep:
        return pruned
    with open_instance(study) as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=_ENDED))[keep:]:
            files = [path for path in _of_run(home, run.run_id) if path.exists()]
            if not files:
                continue
            pruned.bytes += sum(map(_size, files))
            if not instance.all_logs(run.run_id, of_type=_OF_ASSETS):
                instance.delete_run(run.run_id)
                pruned.runs += 1
            else:
                pruned.logs += 1
            for path in files:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return pruned


def _log_files(home: Path) -> list[Path]:
    return [path for path in home.glob("history/runs/*.db") if path.stem != "index"]


def _of_run(home: Path, run_id: str) -> list[Path]:
    """Return the database of a run's events, with what SQLite keeps beside it, and the folder of its output."""
    logs = [home / "history" / "runs" / f"{run_id}.db{kind}" for kind in ("", "-wal", "-shm", "-journal")]
    return [*logs, home / "storage" / run_id]


def _size(path: Path) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
