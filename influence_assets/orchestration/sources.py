"""What lies outside of the store, as assets that Dagster observes: source files, query files and the model's files.

Their data version is the hash of their content. So the UI marks what was computed from a file that has changed since.
What is made of all files reads `corpus` or `questions`, which tell of files that went, too.
"""

from collections.abc import Iterator

import dagster as dg

from influence_assets.orchestration.partitions import Partitions
from influence_assets.orchestration.private_api import DATA_VERSION_TAG, reported_versions
from influence_assets.pipeline.fingerprint import WHOLE, sources
from influence_assets.pipeline.workspace import Workspace
from influence_assets.study import Study

GROUP = "sources"
DESCRIBED = {
    "source_files": "The documents' files, or slices of large ones, by content.",
    "corpus": "All source files together: another version whenever one comes, changes or goes.",
    "query_files": "The files of questions, by content.",
    "questions": "All query files together: another version whenever one comes, changes or goes.",
    "model_files": "The brought model's weights and tokenizer, by content.",
}
GONE = "gone"
"""The version of a file that was there before."""


def build_sources(study: Study) -> list[dg.SourceAsset]:
    """The sources of a study."""
    names = [name for name in DESCRIBED if name != "model_files" or study.model.train is None]
    return [_source(study, name) for name in names]


def _source(study: Study, name: str) -> dg.SourceAsset:
    partitions = Partitions.of(study)
    definition = {"source_files": partitions.shard, "query_files": partitions.query_set}.get(name)

    def observe() -> dg.DataVersion | dg.DataVersionsByPartition:
        found = sources(Workspace(study))[name]
        return dg.DataVersion(found[WHOLE]) if definition is None else dg.DataVersionsByPartition(dict(found))

    source: dg.SourceAsset = dg.observable_source_asset(
        key=[study.name, name],
        description=DESCRIBED[name],
        group_name=GROUP,
        partitions_def=definition,
        tags={"dagster/kind/file": ""},
    )(observe)
    return source


def observations(study: Study, workspace: Workspace, instance: dg.DagsterInstance) -> Iterator[dg.AssetObservation]:
    """What has come, changed or gone since Dagster was last told; a partition must be registered before.

    Raises:
        InputError: the corpus, the queries or the model cannot be listed.
    """
    for name, versions in sources(workspace).items():
        key = dg.AssetKey([study.name, name])
        reported = reported_versions(instance, key, dg.DagsterEventType.ASSET_OBSERVATION)
        gone = dict.fromkeys(reported.keys() - versions.keys(), GONE)
        for partition, version in {**versions, **gone}.items():
            if reported.get(partition) != version:
                yield dg.AssetObservation(key, partition=partition or None, tags={DATA_VERSION_TAG: version})
