"""What Dagster is told of where a materialization comes from, so that its marks of what is outdated are true.

Dagster compares, for each upstream asset, what there is now with what there was when an asset was computed. Two things
differ from its own record: a frozen asset is not outdated when more of what it was made of arrives, and an event that
is logged outside of an asset's own computation has no record unless it is given one.

Of an asset with a hundred or more upstream partitions Dagster compares nothing; `influence status` and the view
`outdated_partitions` do.
"""

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from influence_assets.assets import asset_graph
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.fingerprint import WHOLE, sources
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.study import Study

NOTHING_COMES_AFTER = 2**62
"""As the place in Dagster's event log up to which a frozen asset knows what it was made of."""

BY_PARTITION = "by partition"
INPUT_DATA_VERSION = "dagster/input_data_version"


def code_version(step: AssetDefinition, study: Study) -> str:
    """The step's code and the settings that matter to it: Dagster has no mark of its own for changed settings."""
    settings = dict(step.settings(study))
    return step.code_version if not settings else f"{step.code_version} {settings_digest(settings)}"


def upstream_names(step: AssetDefinition, study: Study) -> list[str]:
    """The assets that a step depends on, sources included."""
    return [*step.inputs_of(study), *step.reads_of(study)]


def frozen_tags(step: AssetDefinition, study: Study) -> dict[str, str]:
    """For what Dagster records of a frozen asset by itself: nothing that comes later outdates it."""
    frozen = _frozen_upstream(step, study)
    return {get_input_event_pointer_tag(dg.AssetKey([study.name, name])): str(NOTHING_COMES_AFTER) for name in frozen}


def provenance_tags(
    step: AssetDefinition, study: Study, data_version: str, versions: Versions, instance: dg.DagsterInstance
) -> dict[str, str]:
    """For an event that is logged outside of an asset's own computation: all that Dagster would have recorded."""
    latest = instance.event_log_storage.get_maximum_record_id() or 0
    tags = {
        CODE_VERSION_TAG: code_version(step, study),
        DATA_VERSION_TAG: data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for name in upstream_names(step, study):
        key = dg.AssetKey([study.name, name])
        tags[get_input_data_version_tag(key, prefix=INPUT_DATA_VERSION)] = _version(name, versions)
        tags[get_input_event_pointer_tag(key)] = str(latest)
    return tags | frozen_tags(step, study)


def _frozen_upstream(step: AssetDefinition, study: Study) -> list[str]:
    return list(step.frozen_inputs_of(study))


def _version(name: str, versions: Versions) -> str:
    """The data version of an upstream asset without partitions; Dagster looks those of partitions up by itself."""
    if name not in asset_graph():
        return sources(versions.workspace)[name].get(WHOLE, BY_PARTITION)
    step = asset_graph()[name]
    key = versions.key(step, Partition()) if step.partitioned_by == "none" else None
    return BY_PARTITION if key is None else key.data_version


def settings_digest(settings: dict[str, object]) -> str:
    """A short hash of settings."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
