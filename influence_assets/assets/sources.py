"""What lies outside of the store, as assets that Dagster observes: source files, query files and the model's files.

Their data version is the hash of their content. So the UI marks what was computed from a file that has changed since.
"""

import json
from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from influence_assets.assets.partitions import Partitions
from influence_assets.pipeline.fingerprint import sources
from influence_assets.pipeline.workspace import Workspace
from influence_assets.study import Study

DESCRIBED = {
    "source_files": "The documents' files, or slices of large ones, by content.",
    "query_files": "The files of questions, by content.",
    "model_files": "The brought model's weights and tokenizer, by content.",
}


def build_sources(study: Study) -> list[dg.AssetSpec]:
    """The sources of a study."""
    partitions = Partitions.of(study)
    definitions = {"source_files": partitions.shard, "query_files": partitions.query_set, "model_files": None}
    names = [name for name in definitions if name != "model_files" or study.model.train is None]
    return [
        dg.AssetSpec(
            [study.name, name],
            description=DESCRIBED[name],
            group_name="sources",
            kinds={"file"},
            partitions_def=definitions[name],
        )
        for name in names
    ]


def observations(study: Study, workspace: Workspace, instance: dg.DagsterInstance) -> Iterator[dg.AssetObservation]:
    """What has come or changed since it was last observed; a partition must be registered before.

    Raises:
        InputError: the corpus, the queries or the model cannot be listed.
    """
    cursor = f"influence/{study.name}/observed"
    known = json.loads(instance.daemon_cursor_storage.get_cursor_values({cursor}).get(cursor, "{}"))
    found = sources(workspace)
    for name, versions in found.items():
        before = known.get(name, {})
        for partition, version in versions.items():
            if before.get(partition) != version:
                yield dg.AssetObservation(
                    [study.name, name], partition=partition or None, tags={DATA_VERSION_TAG: version}
                )
    if found != known:
        instance.daemon_cursor_storage.set_cursor_values({cursor: json.dumps(found)})
