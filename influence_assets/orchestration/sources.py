"""The files outside the store, as assets that Dagster observes: source files, query files and the model's files.

Their data version is the hash of their content, so the UI marks what was computed from a file that has changed since.
Assets that are computed from all files read `corpus` or `questions`, which also change when a file is deleted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from influence_assets.assets import asset_graph, open_workspace
from influence_assets.engine.fingerprint import WHOLE, sources
from influence_assets.engine.partitions import Partitioning
from influence_assets.engine.workspace import Workspace
from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.private_api import DATA_VERSION_TAG, reported_versions
from influence_assets.study import Study

GROUP = "sources"


@dataclass(frozen=True)
class Described:
    """Description of a source.

    Args:
        description: its description in the UI.
        partitioned_by: the kind of its partitions.
    """

    description: str
    partitioned_by: Partitioning = "none"


SOURCES: Mapping[str, Described] = {
    "source_files": Described("The documents' files, or slices of large ones, by content.", "shard"),
    "corpus": Described("All source files together; the version changes when any file is added, changed or deleted."),
    "query_files": Described("The files of questions, by content.", "query_set"),
    "questions": Described("All query files together; the version changes when any file is added, changed or deleted."),
    "model_files": Described("The weights and tokenizer of the model that the study names, by content."),
    "optimizer_file": Described("The state of the optimiser that trained that model, by content."),
}
GONE = "gone"
"""The version of a file that existed before."""

FILE_GONE = "The file is gone. What was computed from it is kept for now, but not used."
FILE_EXISTS = "The file exists."


def build_sources(study: Study) -> list[dg.SourceAsset]:
    """Return the sources that a study's assets read."""
    read = {name for asset in asset_graph() if asset.is_shown_in(study) for name in asset.reads_of(study)}
    return [_source(study, name) for name in SOURCES if name in read]


def _source(study: Study, name: str) -> dg.SourceAsset:
    described = SOURCES[name]
    definition = Partitions.of(study).definition(described.partitioned_by)

    def observe() -> dg.DataVersion | dg.DataVersionsByPartition:
        versions = sources(open_workspace(study))[name]
        return dg.DataVersion(versions[WHOLE]) if definition is None else dg.DataVersionsByPartition(dict(versions))

    source: dg.SourceAsset = dg.observable_source_asset(
        key=[study.name, name],
        description=described.description,
        group_name=GROUP,
        partitions_def=definition,
        tags={"dagster/kind/file": ""},
    )(observe)
    return source


def observations(study: Study, workspace: Workspace, instance: dg.DagsterInstance) -> Iterator[dg.AssetObservation]:
    """Report files that are new, changed or gone since the last report; partitions must be registered before.

    When a file is gone or back, the assets' partitions for it report that too, because Dagster keeps such partitions
    forever, beside those of existing files.

    Raises:
        InputError: the corpus, the queries or the model cannot be listed.
    """
    for name, versions in sources(workspace).items():
        key = dg.AssetKey([study.name, name])
        reported = reported_versions(instance, key, dg.DagsterEventType.ASSET_OBSERVATION)
        missing = reported.keys() - versions.keys()
        if name == "source_files":
            missing = {shard for shard in missing if reported[shard] == GONE or _is_gone(workspace, shard)}
        gone = dict.fromkeys(missing, GONE)
        for partition, version in {**versions, **gone}.items():
            if reported.get(partition) == version:
                continue
            metadata = {"file": FILE_GONE if version == GONE else FILE_EXISTS} if partition else {}
            yield dg.AssetObservation(
                key, partition=partition or None, metadata=metadata, tags={DATA_VERSION_TAG: version}
            )
            if GONE in (version, reported.get(partition)):
                for asset in workspace.graph:
                    if asset.partitioned_by == SOURCES[name].partitioned_by:
                        asset_key = dg.AssetKey([study.name, asset.name])
                        yield dg.AssetObservation(asset_key, partition=partition, metadata=metadata)


def _is_gone(workspace: Workspace, shard: str) -> bool:
    """Return whether a shard is withdrawn or known to be gone; one whose file cannot be read is neither."""
    return shard in workspace.listed or workspace.has_vanished(shard)
