"""All uses of Dagster's undocumented API, in one place.

`tests/orchestration/test_private_api.py` checks that Dagster still provides each of these. Where there is a public
alternative, the function's docstring says why it is not enough.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    INPUT_DATA_VERSION_TAG_PREFIX,
    NULL_DATA_VERSION,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

__all__ = [
    "DATA_VERSION_TAG",
    "NEVER_MATERIALIZED",
    "UnresolvedAssetJobDefinition",
    "dagster_with",
    "execute_here",
    "input_tags",
    "keep",
    "kept",
    "last_event_id",
    "reported_versions",
    "version_tags",
    "wrap_webserver",
]

NEVER_MATERIALIZED = NULL_DATA_VERSION.value
"""The data version that Dagster gives an asset that was never materialised."""

REPOSITORY = "__repository__"
"""Dagster's name for the repository that it makes from a module's `Definitions`."""


def execute_here(
    job: dg.JobDefinition, instance: dg.DagsterInstance, run_config: Mapping[str, Any], location: str
) -> bool:
    """Execute a job in this process, as a run of a code location, and return whether it succeeded.

    `JobDefinition.execute_in_process` records a run without a code location. The UI's timeline and the job's page leave
    such runs out, and they cannot be launched again from there.

    Args:
        job: a job whose ops all run in one process.
        instance: the instance that records the run.
        run_config: the run's configuration.
        location: the code location's name in the UI's workspace. It need not be loaded.
    """
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), REPOSITORY).get_job_origin(job.name)
    run = instance.create_run_for_job(job_def=job, run_config=run_config, tags=job.run_tags, remote_job_origin=origin)
    for _ in execute_run_iterator(InMemoryJob(job), run, instance):
        pass
    ended = instance.get_run_by_id(run.run_id)
    return ended is not None and ended.is_success


def version_tags(code_version: str, data_version: str) -> dict[str, str]:
    """Return the tags of an event that state an asset's versions.

    The public API has these only for an asset's own computation, as `MaterializeResult.data_version`.
    """
    return {
        CODE_VERSION_TAG: code_version,
        DATA_VERSION_TAG: data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }


def input_tags(upstream: dg.AssetKey, *, data_version: str | None, event_id: int) -> dict[str, str]:
    """Return the tags of an event that state which version of an upstream asset it was computed from.

    Args:
        upstream: the upstream asset's key.
        data_version: the upstream asset's data version; None keeps what Dagster records by itself.
        event_id: the last event of the event log that came before the computation.
    """
    tags = {get_input_event_pointer_tag(upstream): str(event_id)}
    if data_version is not None:
        tags[get_input_data_version_tag(upstream, prefix=INPUT_DATA_VERSION_TAG_PREFIX)] = data_version
    return tags


def last_event_id(instance: dg.DagsterInstance) -> int:
    """Return the id of the last event in the instance's log."""
    return instance.event_log_storage.get_maximum_record_id() or 0


def reported_versions(instance: dg.DagsterInstance, key: dg.AssetKey, kind: dg.DagsterEventType) -> Mapping[str, str]:
    """Return the data version that was last reported for each partition of an asset, by the partition's key.

    For an asset without partitions the key is "". The public API only returns all events of an asset, page by page
    (`DagsterInstance.fetch_materializations`).

    Args:
        instance: the instance that they were reported to.
        key: the asset's key.
        kind: ASSET_OBSERVATION or ASSET_MATERIALIZATION.
    """
    tags = instance.event_log_storage.get_latest_tags_by_partition(key, kind, [DATA_VERSION_TAG])
    if tags:
        return {partition: of_partition[DATA_VERSION_TAG] for partition, of_partition in tags.items()}
    is_observed = kind == dg.DagsterEventType.ASSET_OBSERVATION
    fetch = instance.fetch_observations if is_observed else instance.fetch_materializations
    records = fetch(key, limit=1).records
    event = (records[0].asset_observation if is_observed else records[0].asset_materialization) if records else None
    version = None if event is None else (event.tags or {}).get(DATA_VERSION_TAG)
    return {} if version is None else {"": version}


def kept(instance: dg.DagsterInstance, key: str) -> str | None:
    """Return the value kept in the instance under a key; only the sensor itself could write its public cursor."""
    return instance.daemon_cursor_storage.get_cursor_values({key}).get(key)


def keep(instance: dg.DagsterInstance, key: str, value: str) -> None:
    """Keep a value in the instance under a key."""
    instance.daemon_cursor_storage.set_cursor_values({key: value})


def dagster_with(module: str) -> None:
    """Run the command `dagster` with this process's arguments; its `dev` starts this module for the web server.

    `dagster dev` has no option for the web server that it starts, and starting its parts one by one would load every
    code location once for each.
    """
    from dagster._cli import dev, main

    start = dev.open_ipc_subprocess  # type: ignore[attr-defined]

    def started(parts: Sequence[str], **options: Any) -> Any:
        replaced = [module if part == "dagster_webserver" else part for part in parts]
        return start(replaced, **options)

    dev.open_ipc_subprocess = started  # type: ignore[attr-defined]
    main()  # type: ignore[no-untyped-call]


def wrap_webserver(middleware: Any, **options: Any) -> None:
    """Put an ASGI middleware before all others of Dagster's web server, in this process."""
    from dagster_webserver.webserver import DagsterWebserver
    from starlette.middleware import Middleware

    build = DagsterWebserver.build_middleware

    def built(self: Any) -> list[Any]:
        return [Middleware(middleware, **options), *build(self)]

    DagsterWebserver.build_middleware = built  # type: ignore[method-assign]
