"""Runs what is outstanding through the assets, stage by stage, in this process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import dagster as dg

from influence_assets.assets.definitions import build_definitions
from influence_assets.assets.factory import asset_key
from influence_assets.assets.jobs import JOBS
from influence_assets.assets.partitions import Partitions
from influence_assets.assets.session import Session
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.plan import state
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.versions import Versions
from influence_assets.pipeline.workspace import Workspace
from influence_assets.study import Study

FROZEN = frozenset({"language_model", "eigenbases", "curvature"})
"""Assets that stand although new shards of what they read arrive."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Failure:
    """A partition that could not be computed.

    Args:
        job: the job that failed.
        partition: of it.
        error: what it said.
    """

    job: str
    partition: str | None
    error: Exception


@dataclass
class Result:
    """What a run did.

    Args:
        computed: partitions that were computed, in order.
        stood: partitions that stood already, by step.
        checks_failed: asset checks that do not hold, as `asset: check`.
        failures: what went wrong; what depends on it was left as it was.
        left_out: steps with partitions that still do not stand.
    """

    computed: list[tuple[Step, Partition]] = field(default_factory=list)
    stood: dict[str, int] = field(default_factory=dict)
    checks_failed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Watcher:
    """Whom to tell how a run goes.

    Args:
        stage: told (job, partition's key, partitions outstanding) before each run.
        progress: told (step, partition, done, total) within it.
    """

    stage: Callable[[str, str | None, int], None]
    progress: Callable[[Step, Partition, int, int | None], None]


def bring_up_to_date(study: Study, instance: dg.DagsterInstance, watcher: Watcher) -> Result:
    """Compute everything that the study asks for and the store lacks, as recorded runs of the study's jobs.

    A partition that fails stops nothing but what needs it.

    Raises:
        InputError: the corpus or the queries cannot be listed.
    """
    workspace = Workspace(study)
    workspace.store.remove_abandoned_drafts()
    Partitions.of(study).register(workspace, instance)
    session = Session(Versions(workspace), watcher.progress)
    definitions, result = build_definitions([study], session), Result(computed=session.computed)
    for name, (steps, _) in JOBS.items():
        job = definitions.resolve_job_def(f"{study.name}_{name}")
        for partition, outstanding in _outstanding(session.versions, [BY_NAME[step] for step in steps], result):
            watcher.stage(name, partition.key, len(outstanding))
            try:
                run = job.execute_in_process(
                    run_config=QUIET,
                    instance=instance,
                    partition_key=partition.key,
                    asset_selection=[asset_key(study, step.name) for step in outstanding],
                )
            except Exception as error:  # noqa: BLE001  # whatever a step raises is this partition's failure alone
                result.failures.append(Failure(name, partition.key, _cause(error)))
                continue
            result.checks_failed += [
                f"{check.asset_key.path[-1]}{f'[{partition.key}]' if partition.key else ''}: {check.check_name}"
                for check in run.get_asset_check_evaluations()
                if not check.passed
            ]
    if result.failures:
        result.left_out = [s.step.name for s in state(session.versions) if s.outstanding]
    return result


def _outstanding(versions: Versions, steps: list[Step], result: Result) -> Iterator[tuple[Partition, list[Step]]]:
    """Each partition of a job with its steps that do not stand; partitions with missing inputs are left out."""
    for partition in versions.partitions(steps[0]):
        standing = [step for step in steps if versions.stands(step, partition)]
        for step in standing:
            result.stood[step.name] = result.stood.get(step.name, 0) + 1
        outstanding = [step for step in steps if step not in standing]
        if not outstanding and _is_reported_anew(versions, steps[0], result):
            yield partition, steps
        if outstanding and versions.find(outstanding[0], partition) is not None:
            yield partition, outstanding


def _is_reported_anew(versions: Versions, step: Step, result: Result) -> bool:
    """Whether a frozen asset should tell the UI that it stands although something that it reads was computed.

    Its run does nothing but record that, and the UI's mark of an outdated asset goes.
    """
    trains = versions.workspace.study.model.train is not None
    frozen = FROZEN if trains else FROZEN - {"language_model"}
    return step.name in frozen and any(done.name in step.upstream for done, _ in result.computed)


def _cause(error: Exception) -> Exception:
    """The step's own error, out of Dagster's wrappings; what that one was caused by in turn is no news to a person."""
    while isinstance(error, dg.DagsterError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
