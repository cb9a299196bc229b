"""OpenLineage events about computed artifacts, sent only if the study names a collector.

An artifact is a dataset `<asset>/<partition>` in the namespace of the store, its data version the dataset's version.
Its computation is a run of the job `<study>.<asset>`, whose parent is Dagster's run.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from influence_assets.errors import InputError
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.study import Study
from influence_assets.urls import without_credentials

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, RunEvent
    from openlineage.client.generated.base import RunFacet

PRODUCER = "https://openlineage.io/producers/influence-assets"
INPUTS_NAMED = 100
"""If an artifact has more inputs than this, its events name the inputs' assets and not each partition."""


def connect(study: Study) -> "OpenLineageClient | None":
    """Return the client for the study's collector, or None if the study names none.

    Raises:
        InputError: the client is not installed.
    """
    if study.lineage.openlineage_url is None:
        return None
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.transport.http import HttpConfig, HttpTransport
    except ImportError as error:
        remedy = "Install it with `pip install 'influence-assets[openlineage]'`, or leave the key out."
        raise InputError("lineage.openlineage_url", "needs the OpenLineage client, which is missing", remedy) from error
    # Only one try, because a collector that is down must not delay the work for long.
    config = HttpConfig(url=study.lineage.openlineage_url, retry={"total": 0})
    return OpenLineageClient(transport=HttpTransport(config))


def events(study: Study, manifest: Manifest) -> "list[RunEvent]":
    """Return the events for the beginning and the end of one artifact's computation."""
    from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import dataset_version_dataset, output_statistics_output_dataset, parent_run

    root = study.storage.root
    namespace = without_credentials(root) if "://" in root else Path(root).as_uri()
    job = Job(namespace, f"{study.name}.{manifest.asset}")
    facets: dict[str, RunFacet] = {}
    if manifest.run_id is not None:
        parent = parent_run.Job(namespace, f"{study.name}.influence_run")
        facets["parent"] = parent_run.ParentRunFacet(parent_run.Run(manifest.run_id), parent, producer=PRODUCER)
    run = Run(str(uuid5(NAMESPACE_URL, f"{namespace}/{manifest.key}/{manifest.started_at.isoformat()}")), facets)
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=sum(manifest.rows.values()), size=manifest.bytes, producer=PRODUCER
    )
    version = dataset_version_dataset.DatasetVersionDatasetFacet(manifest.data_version, producer=PRODUCER)
    output = OutputDataset(
        namespace, _name(manifest.key), {"outputStatistics": statistics}, facets={"version": version}
    )

    def event(state: RunState, time: datetime) -> RunEvent:
        inputs = _inputs(namespace, manifest.inputs)
        return RunEvent(
            eventType=state, eventTime=time.isoformat(), run=run, job=job, producer=PRODUCER, inputs=inputs,
            outputs=[output],
        )  # fmt: skip

    ended = manifest.started_at + timedelta(seconds=manifest.seconds)
    return [event(RunState.START, manifest.started_at), event(RunState.COMPLETE, ended)]


def _inputs(namespace: str, inputs: Sequence[ArtifactKey]) -> "list[InputDataset]":
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    if len(inputs) > INPUTS_NAMED:
        return [InputDataset(namespace, asset) for asset in sorted({key.asset for key in inputs})]
    return [
        InputDataset(
            namespace,
            _name(key),
            facets={"version": dataset_version_dataset.DatasetVersionDatasetFacet(key.data_version, producer=PRODUCER)},
        )
        for key in inputs
    ]


def _name(key: ArtifactKey) -> str:
    return key.asset if key.partition is None else f"{key.asset}/{key.partition}"
