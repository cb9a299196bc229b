"""The sensor, which notices new, changed and deleted files and requests runs that compute what is then outstanding."""

import json
from collections.abc import Sequence

import dagster as dg

from influence_assets.assets import open_workspace
from influence_assets.engine.bring_up import is_generation_due
from influence_assets.engine.fingerprint import fingerprint
from influence_assets.engine.plan import plan
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError, StorageError
from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.private_api import keep, kept
from influence_assets.orchestration.runs import end_dead_runs, handled_key, job_name
from influence_assets.orchestration.sources import observations
from influence_assets.study import Study

ATTEMPTS = 3
"""How many runs are requested for the same files if they die before they end."""

UNFINISHED: Sequence[dg.DagsterRunStatus] = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)


def build_sensor(study: Study) -> dg.SensorDefinition:
    """Return the sensor that checks the files' content, and requests a run when something is outstanding.

    One run does everything; Dagster's own conditions would request a run for each partition and know nothing about
    files. A partition that failed is not tried again until something changes.
    """
    partitions = Partitions.of(study)

    @dg.sensor(
        name=f"{study.name}_files",
        description="Notices new, changed and deleted files, and requests a run that computes what is outstanding.",
        job_name=job_name(study),
        minimum_interval_seconds=study.automation.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def files(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            workspace = open_workspace(study)
            current = fingerprint(workspace)
            unregistered = partitions.unregistered(workspace, context.instance)
            events = list(observations(study, workspace, context.instance))
            requests, cursor, reason = _requests(study, context, workspace, current)
        except (InputError, StorageError) as error:
            return dg.SkipReason(str(error))
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=reason if not requests else None,
            cursor=cursor,
            dynamic_partitions_requests=[
                definition.build_add_request(keys) for definition, keys in unregistered.items() if keys
            ],
            asset_events=events,
        )

    return files


def _requests(
    study: Study, context: dg.SensorEvaluationContext, workspace: Workspace, current: str
) -> tuple[list[dg.RunRequest], str | None, str]:
    """Return at most one request for a run, the sensor's next cursor, and the reason if there is no request."""
    instance, key = context.instance, handled_key(study)
    if not study.automation.enabled:
        return [], context.cursor, "automation.enabled is false: new files are registered, nothing is computed."
    if kept(instance, key) == current:
        return [], context.cursor, f"Nothing changed in {study.corpus.path} or {study.queries.path}."
    end_dead_runs(study, instance)
    if instance.get_runs(dg.RunsFilter(job_name=job_name(study), statuses=list(UNFINISHED)), limit=1):
        return [], context.cursor, "A run is at work."
    before = json.loads(context.cursor or "{}")
    attempts = int(before.get("attempts", 0)) if before.get("fingerprint") == current else 0
    if attempts >= ATTEMPTS:
        return [], context.cursor, f"{ATTEMPTS} runs of these files died. Look at the last one, then run by hand."
    versions = Versions(workspace)
    states = (state for each in (versions, *versions.members) for state in plan(each))
    if not any(state.outstanding for state in states) and not is_generation_due(versions):
        keep(instance, key, current)
        return [], context.cursor, "Everything is up to date."
    cursor = json.dumps({"fingerprint": current, "attempts": attempts + 1})
    return [dg.RunRequest(job_name=job_name(study))], cursor, ""
