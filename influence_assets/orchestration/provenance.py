"""What is reported to Dagster of where a materialization comes from, so that its marks of what is outdated are true.

Dagster compares, for each upstream asset, what there is now with what there was when an asset was computed. Two things
differ from its own record: a frozen asset is not outdated when more of what it was made of arrives, and an event that
is logged outside of an asset's own computation has no record unless it is given one.

Of an asset with a hundred or more upstream partitions Dagster compares nothing; `influence status` and the view
`outdated_partitions` do.
"""

import hashlib
import json

import dagster as dg

from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.fingerprint import WHOLE, sources
from influence_assets.engine.generations import FrozenBySettings, FrozenWithGeneration, NumberedGeneration
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.orchestration.private_api import input_tags, last_event_id, version_tags
from influence_assets.study import Study

NOTHING_COMES_AFTER = 2**62
"""As the place in Dagster's event log up to which a frozen asset knows what it was made of."""

BY_PARTITION = "by partition"
"""In the place of the data version of an upstream asset with partitions: Dagster looks those up by itself."""


def code_version(asset: AssetDefinition, study: Study) -> str:
    """Return the asset's code version with its settings, for whose change Dagster has no mark of its own."""
    settings = dict(asset.settings(study))
    if not settings:
        return asset.code_version
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return f"{asset.code_version} {digest}"


def upstream_names(asset: AssetDefinition, study: Study) -> list[str]:
    """Return the assets and the outside sources that an asset reads."""
    return [*asset.inputs_of(study), *asset.reads_of(study)]


def frozen_tags(asset: AssetDefinition, study: Study) -> dict[str, str]:
    """Return the tags by which nothing that comes to its frozen inputs later outdates an asset."""
    tags: dict[str, str] = {}
    for name in _frozen_inputs(asset, study):
        tags |= input_tags(dg.AssetKey([study.name, name]), data_version=None, event_id=NOTHING_COMES_AFTER)
    return tags


def provenance_tags(
    asset: AssetDefinition, study: Study, data_version: str, versions: Versions, instance: dg.DagsterInstance
) -> dict[str, str]:
    """Return, for an event outside of an asset's own computation, all that Dagster would have recorded."""
    event_id = last_event_id(instance)
    tags = version_tags(code_version(asset, study), data_version)
    for name in upstream_names(asset, study):
        key = dg.AssetKey([study.name, name])
        tags |= input_tags(key, data_version=_data_version(name, versions), event_id=event_id)
    return tags | frozen_tags(asset, study)


def _frozen_inputs(asset: AssetDefinition, study: Study) -> list[str]:
    """The inputs that an asset does not follow any more once it is computed."""
    rule, inputs = asset.frozen, asset.inputs_of(study)
    if isinstance(rule, FrozenBySettings | NumberedGeneration):
        return list(inputs)
    if isinstance(rule, FrozenWithGeneration):
        return [name for name in inputs if name not in rule.fixed_inputs]
    return []


def _data_version(name: str, versions: Versions) -> str:
    """The data version of an upstream asset or source without partitions."""
    asset = versions.workspace.graph.get(name)
    if asset is None:
        return sources(versions.workspace)[name].get(WHOLE, BY_PARTITION)
    key = versions.key(asset, Partition()) if asset.partitioned_by == "none" else None
    return BY_PARTITION if key is None else key.data_version
