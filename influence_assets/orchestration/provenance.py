"""What Dagster is told of where a materialization comes from, so that its marks of what is outdated are true.

Dagster compares, for each upstream asset, what there is now with what there was when an asset was computed. Two things
differ from its own record: a frozen asset is not outdated when more of what it was made of arrives, and an event that
is logged outside of an asset's own computation has no record unless it is given one.

Of an asset with a hundred or more upstream partitions Dagster compares nothing; `influence status` and the view
`outdated_partitions` do.
"""

import dagster as dg

from influence_assets.orchestration.private_api import input_tags, last_event_id, version_tags
from influence_assets.pipeline.fingerprint import WHOLE, sources
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.versions import Versions
from influence_assets.study import Study

NOTHING_COMES_AFTER = 2**62
"""As the place in Dagster's event log up to which a frozen asset knows what it was made of."""

BY_PARTITION = "by partition"
SOURCES = {
    "documents": ["source_files"],
    "curvature_drift": ["corpus"],
    "query_gradients": ["query_files"],
    "influence_details": ["corpus"],
    "influence_catalogue": ["corpus", "questions"],
}
"""What steps depend on outside the store. Those that are made of all files say nothing of one that is gone: of its
partitions, which stay, nothing changes."""


def code_version(step: Step, study: Study) -> str:
    """The step's code and the settings that matter to it: Dagster has no mark of its own for changed settings."""
    settings = dict(step.settings(study))
    return step.code_version if not settings else f"{step.code_version} {settings_digest(settings)}"


def upstream_names(step: Step, study: Study) -> list[str]:
    """The assets that a step depends on, sources included."""
    if step.name == "language_model":
        return ["documents"] if study.model.train is not None else ["model_files"]
    return [*step.upstream, *SOURCES.get(step.name, [])]


def frozen_tags(step: Step, study: Study) -> dict[str, str]:
    """For what Dagster records of a frozen asset by itself: nothing that comes later outdates it."""
    frozen = _frozen_upstream(step, study)
    tags: dict[str, str] = {}
    for name in frozen:
        tags |= input_tags(dg.AssetKey([study.name, name]), data_version=None, event_id=NOTHING_COMES_AFTER)
    return tags


def provenance_tags(
    step: Step, study: Study, data_version: str, versions: Versions, instance: dg.DagsterInstance
) -> dict[str, str]:
    """For an event that is logged outside of an asset's own computation: all that Dagster would have recorded."""
    latest = last_event_id(instance)
    tags = version_tags(code_version(step, study), data_version)
    for name in upstream_names(step, study):
        key = dg.AssetKey([study.name, name])
        tags |= input_tags(key, data_version=_version(name, versions), event_id=latest)
    return tags | frozen_tags(step, study)


def _frozen_upstream(step: Step, study: Study) -> list[str]:
    if step.name == "eigenbases":
        return ["covariances"]
    if step.name == "curvature":
        return ["corrected_eigenvalues"]
    return ["documents"] if step.name == "language_model" and study.model.train is not None else []


def _version(name: str, versions: Versions) -> str:
    """The data version of an upstream asset without partitions; Dagster looks those of partitions up by itself."""
    if name not in BY_NAME:
        return sources(versions.workspace)[name].get(WHOLE, BY_PARTITION)
    step = BY_NAME[name]
    key = versions.key(step, Partition()) if step.partitioning == "none" else None
    return BY_PARTITION if key is None else key.data_version


def settings_digest(settings: dict[str, object]) -> str:
    """A short hash of settings."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
