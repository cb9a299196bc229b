"""One run that computes everything outstanding, in one process: the command's, the sensor's and a person's."""

import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from influence_assets.engine.bring_up import (
    Failure,
    Finished,
    Result,
    StageEnded,
    bring_up_to_date,
    drift,
    is_generation_due,
)
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.fingerprint import WHOLE, fingerprint
from influence_assets.engine.materialise import Outcome
from influence_assets.engine.plan import AssetState, plan
from influence_assets.engine.versions import Versions
from influence_assets.errors import StorageError
from influence_assets.orchestration import checks, openlineage
from influence_assets.orchestration.factory import asset_key, materialization
from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.session import Session, resource_key
from influence_assets.orchestration.sources import observations
from influence_assets.orchestration.told import told_versions
from influence_assets.storage.manifest import ArtifactKey
from influence_assets.study import Study

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient

PROCESS_TAG = "influence/process"

Report = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation
Event = Report | dg.Output[None]


class Request(dg.Config):
    """Settings of one run."""

    new_generation: bool = False


def job_name(study: Study) -> str:
    """The name of a study's job."""
    return f"{study.name}_bring_up_to_date"


def handled_key(study: Study) -> str:
    """Under which Dagster's instance keeps what the last run took care of."""
    return f"influence/{study.name}/handled"


def build_bring_up_job(study: Study) -> dg.JobDefinition:
    """The job of a study."""

    @dg.op(
        name=f"{study.name}_compute_outstanding",
        description="Computes every partition that is new, changed or missing, and nothing else.",
        required_resource_keys={resource_key(study)},
        tags={"influence/device": "in_use"},
    )
    def compute_outstanding(context: dg.OpExecutionContext, config: Request) -> Iterator[Event]:
        session: Session = getattr(context.resources, resource_key(study))
        yield from _compute(context, study, session, new_generation=config.new_generation)
        yield dg.Output(None)

    @dg.job(
        name=job_name(study),
        description="Bring everything up to date: compute what is new, changed or missing, publish it, and stop.",
        executor_def=dg.in_process_executor,
    )
    def bring_up() -> None:
        compute_outstanding()

    return bring_up


def execute(study: Study, instance: dg.DagsterInstance, session: Session, *, new_generation: bool) -> None:
    """Run the job in this process; what it did stands in `session.result`.

    Raises:
        InputError: the corpus or the queries cannot be listed.
        StorageError: Dagster cannot keep record of the run.
        KeyboardInterrupt: the user has ended it.
    """
    end_dead_runs(study, instance)
    versions = session.published
    session.result.states = list(plan(versions))
    outstanding = any(state.outstanding for state in session.result.states) or versions.has_newer_generation
    session.result.drift = drift(versions)
    if not new_generation and not outstanding and not is_generation_due(versions):
        for event in _news(study, versions, session, instance):
            instance.report_runless_asset_event(event)
        return
    config = {
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "ops": {f"{study.name}_compute_outstanding": {"config": {"new_generation": new_generation}}},
    }
    # Not out of a code location: resolving the whole graph of assets takes longer than many a run.
    ended = build_bring_up_job(study).execute_in_process(
        run_config=config, instance=instance, resources={resource_key(study): session}, raise_on_error=False
    )
    if session.error is not None:
        raise session.error
    if not ended.success and not session.result.failures:
        raise StorageError(
            f"{instance.root_directory}: Dagster ended the run before its time, most likely because it cannot write "
            "there. What was computed stands. See that there is space on that disk and run again."
        )


def end_dead_runs(study: Study, instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process has gone: those of the command nobody else would, others not for long."""
    going = dg.RunsFilter(job_name=job_name(study), statuses=[dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(filters=going):
        pid, _, host = run.tags.get(PROCESS_TAG, "").partition("@")
        if host == socket.gethostname() and not _is_alive(int(pid)):
            instance.report_run_failed(run, "Its process was ended. What it had computed stands; the next run goes on.")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _compute(
    context: dg.OpExecutionContext, study: Study, session: Session, *, new_generation: bool
) -> Iterator[Event]:
    instance, result = context.instance, session.result
    instance.add_run_tags(context.run_id, {PROCESS_TAG: f"{os.getpid()}@{socket.gethostname()}"})
    watcher = session.watcher(context)
    try:
        handled = fingerprint(session.published.workspace)
        # Of two generations the newer one is told of: it is what the run ends with.
        look = session.versions if session.published.has_newer_generation else session.published
        result.states = list(plan(look)) if look is session.versions else result.states or list(plan(look))
        before, passed, collector = result.states, _Passed(), openlineage.connect(study)
        yield from _news(study, look, session, instance)
        for event in bring_up_to_date(
            session.published, watcher, result, run_id=context.run_id, new_generation=new_generation
        ):
            if isinstance(event, StageEnded):
                continue
            yield from passed.of_others(event.asset)
            if isinstance(event, Failure):
                context.log.error(f"{event.asset.name} {event.partition.key or ''}: {event.error}")
            else:
                yield from _recorded(study, event, session, instance, passed)
                collector = _told_elsewhere(study, event, collector, context)
        yield from passed.of_others(None)
        versions = result.versions or session.published
        yield from _untold(study, versions, _skipped(before, result), session, instance)
    except (Exception, KeyboardInterrupt) as error:
        session.error = error
        raise
    instance.daemon_cursor_storage.set_cursor_values({handled_key(study): handled})
    if result.failures:
        named = ", ".join(f"{failure.asset.name} {failure.partition.key or ''}" for failure in result.failures)
        raise dg.Failure(f"Not computed: {named}. What stood before still stands. Left out: {result.left_out}.")


def _news(study: Study, versions: Versions, session: Session, instance: dg.DagsterInstance) -> Iterator[Report]:
    """What Dagster does not know yet of the files, and of what stands before anything is computed."""
    Partitions.of(study).register(versions.workspace, instance)
    yield from observations(study, versions.workspace, instance)
    yield from _untold(study, versions, session.result.states, session, instance)


def _skipped(before: Sequence[AssetState], result: Result) -> list[AssetState]:
    """The steps of which something stands now that neither stood before nor was computed: a version of old."""
    computed = set(result.computed)
    waited = {
        state.asset.name
        for state in before
        if any((state.asset, place.partition) not in computed for place in state.outstanding)
    }
    return [state for state in result.states if state.asset.name in waited]


def _untold(
    study: Study, versions: Versions, states: Sequence[AssetState], session: Session, instance: dg.DagsterInstance
) -> Iterator[Report]:
    """Partitions that stand in versions that Dagster was not told of, or was told of before others.

    They were computed by another instance's run, or are asked for again after a setting or a file was taken back.
    """
    passed = _Passed()
    for state in states:
        yield from passed.of_others(state.asset)
        told = told_versions(instance, asset_key(study, state.asset.name), dg.DagsterEventType.ASSET_MATERIALIZATION)
        for standing in state.of("standing"):
            key = ArtifactKey(state.asset.name, standing.partition.key, str(standing.data_version))
            if told.get(standing.partition.key or WHOLE) != key.data_version:
                outcome = Outcome(versions.workspace.store.open(key), computed=False)
                ended = Finished(state.asset, standing.partition, outcome, versions)
                yield from _recorded(study, ended, session, instance, passed)
    yield from passed.of_others(None)


def _told_elsewhere(
    study: Study, event: Finished, collector: "OpenLineageClient | None", context: dg.OpExecutionContext
) -> "OpenLineageClient | None":
    """Tell the collector, if there is one; one that does not answer is left alone for the rest of the run."""
    if collector is None or not event.outcome.computed:
        return collector
    try:
        for told in openlineage.events(study, event.outcome.artifact.manifest):
            collector.emit(told)
    except Exception as error:  # noqa: BLE001  # whatever a collector answers, what was computed stands
        context.log.warning(f"{study.lineage.openlineage_url} does not take OpenLineage events: {error}")
        return None
    return collector


class _Passed:
    """Checks that hold, told once a step with the number of partitions: each event costs Dagster time."""

    def __init__(self) -> None:
        self._step: AssetDefinition | None = None
        self._last: dict[tuple[dg.AssetKey, str], dg.AssetCheckEvaluation] = {}
        self._partitions: Counter[tuple[dg.AssetKey, str]] = Counter()

    def add(self, evaluation: dg.AssetCheckEvaluation) -> None:
        """One more partition of which a check holds."""
        check = evaluation.asset_key, evaluation.check_name
        self._last[check] = evaluation
        self._partitions[check] += 1

    def of_others(self, step: AssetDefinition | None) -> Iterator[dg.AssetCheckEvaluation]:
        """What held of the step before, now that this one is at work."""
        if step is self._step or (_by_one_pass(step) and _by_one_pass(self._step)):
            return
        for (asset, name), last in self._last.items():
            count = self._partitions[asset, name]
            several = dg.AssetCheckEvaluation(
                asset, name, passed=True, metadata={"partitions": count}, severity=last.severity
            )
            yield last if count == 1 else several
        self._step, self._last, self._partitions = step, {}, Counter()


def _by_one_pass(step: AssetDefinition | None) -> bool:
    """Whether partitions of this step end in turns with those of others."""
    return step is not None and step.measures is not None


def _recorded(
    study: Study, event: Finished, session: Session, instance: dg.DagsterInstance, passed: _Passed
) -> Iterator[Report]:
    """A partition that stands, and what the checks say of it, as Dagster's events."""
    step, partition, outcome, versions = event.asset, event.partition, event.outcome, event.versions
    yield materialization(study, step, partition, outcome, versions, instance)
    for check in checks.results(step, versions.workspace, outcome.artifact):
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            place = f"{step.name}[{partition.key}]" if partition.key else step.name
            session.checks_failed.append(f"{place}: {check.check_name}")
        evaluation = dg.AssetCheckEvaluation(
            asset_key(study, step.name),
            str(check.check_name),
            passed=check.passed,
            metadata=check.metadata,
            severity=check.severity,
            partition=partition.key,
        )
        if check.passed:
            passed.add(evaluation)
        else:
            yield evaluation
