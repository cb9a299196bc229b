"""The provenance that is reported to Dagster for a materialization, so that Dagster marks what is outdated correctly.

For each upstream asset, Dagster compares its current version with that from which an asset was computed. Two cases need
explicit tags: a frozen asset is not outdated when more of its inputs arrive, and an event that is logged outside an
asset's own computation has no provenance unless it is given.

For assets with a hundred or more upstream partitions Dagster compares nothing; `influence status` and the view
`outdated_partitions` do.
"""

import hashlib
import json

import dagster as dg

from influence_assets.assets import asset_graph
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.fingerprint import WHOLE, sources
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.orchestration.private_api import (
    NEVER_MATERIALIZED,
    input_tags,
    last_event_id,
    reported_versions,
    version_tags,
)
from influence_assets.study import Study

NOTHING_COMES_AFTER = 2**62
"""An event id beyond all others, which tells Dagster that a frozen asset has seen every event of its inputs."""

BY_PARTITION = "by partition"
"""Used instead of the data version of an upstream asset with partitions, which Dagster looks up by itself."""


def code_version(asset: AssetDefinition, study: Study) -> str:
    """Return the asset's code version with a hash of its settings, because Dagster does not track settings.

    What a study leaves open and its model settles, such as `auto`, counts as what earlier releases had. Data versions
    are what decides; this is shown before there is a model.
    """
    settings = dict(asset.settings(study))
    if not settings:
        return asset.code_version
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return f"{asset.code_version} {digest}"


def upstream_names(asset: AssetDefinition, study: Study) -> list[str]:
    """Return the names of the assets and the outside sources that Dagster shows as what an asset reads."""
    graph = asset_graph()
    return [*(name for name in asset.inputs_of(study) if graph[name].is_shown_in(study)), *asset.reads_of(study)]


def frozen_tags(asset: AssetDefinition, study: Study) -> dict[str, str]:
    """Return the tags that keep later changes of an asset's frozen inputs from outdating the asset."""
    tags: dict[str, str] = {}
    for name in asset.frozen_inputs_of(study):
        tags |= input_tags(dg.AssetKey([study.name, name]), data_version=None, event_id=NOTHING_COMES_AFTER)
    return tags


def provenance_tags(
    asset: AssetDefinition, study: Study, data_version: str, versions: Versions, instance: dg.DagsterInstance
) -> dict[str, str]:
    """Return the tags that Dagster would have recorded, for an event outside an asset's own computation."""
    event_id = last_event_id(instance)
    tags = version_tags(code_version(asset, study), data_version)
    for name in upstream_names(asset, study):
        key = dg.AssetKey([study.name, name])
        tags |= input_tags(key, data_version=_data_version(name, key, versions, instance), event_id=event_id)
    return tags | frozen_tags(asset, study)


def _data_version(name: str, asset_key: dg.AssetKey, versions: Versions, instance: dg.DagsterInstance) -> str:
    """Return the data version of an upstream asset or source without partitions.

    What is computed on request only need not be there, or may be out of date: then it is whatever Dagster has of it.
    """
    asset = versions.workspace.graph.get(name)
    if asset is None:
        return sources(versions.workspace)[name].get(WHOLE, BY_PARTITION)
    key = versions.key(asset, Partition()) if asset.partitioned_by == "none" else None
    if asset.on_request and asset.partitioned_by == "none" and (key is None or not versions.holds(key)):
        reported = reported_versions(instance, asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        return reported.get("", NEVER_MATERIALIZED)
    return BY_PARTITION if key is None else key.data_version
