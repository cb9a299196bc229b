"""A hash of everything outside the store that decides what is outstanding, so that the sensor can stop early."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache

from influence_assets.corpus.slices import Shard
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.storage.catalogue.statements import schema_version

WHOLE = ""
"""Stands for the partition's key of a source that has no partitions."""


@lru_cache(maxsize=2)
def sources(workspace: Workspace) -> Mapping[str, Mapping[str, str]]:
    """Return the version of every source's content, by the source's name and the partition's key.

    `corpus` and `questions` are all source files and all query files together; they change whenever a file is added,
    changed or deleted.

    Raises:
        InputError: the corpus, the queries or the model cannot be listed.
    """
    source_files = {name: _version(workspace, shard) for name, shard in workspace.shards.items()}
    query_files = {name: workspace.query_hash(file) for name, file in workspace.query_sets.items()}
    contents = {
        "source_files": source_files,
        "corpus": {WHOLE: _digest(source_files)},
        "query_files": query_files,
        "questions": {WHOLE: _digest(query_files)},
    }
    if workspace.study.model.train is None:
        contents["model_files"] = {WHOLE: "-".join(workspace.model_file_hashes)}
    if workspace.study.model.optimizer is not None:
        contents["optimizer_file"] = {WHOLE: workspace.optimizer_hash}
    return contents


def fingerprint(workspace: Workspace) -> str:
    """Return a hash of everything outside the store that enters data versions: sources, withdrawals, study and code.

    Raises:
        InputError: the corpus, the queries or the model cannot be listed.
    """
    versions = Versions(workspace)
    parts = [
        sources(workspace),
        sorted(workspace.withdrawn.entries),
        workspace.study.model_dump(mode="json", exclude={"automation", "lineage"}),
        # Assets put further versions into theirs, such as those of attribution methods.
        [[asset.name, asset.code_version, dict(asset.settings(workspace.study))] for asset in workspace.graph],
        [
            dict(asset.source_content(workspace, partition))
            for asset in workspace.graph
            for partition in versions.partitions(asset)
        ],
        schema_version(),
        [member.model_file_hashes for member in workspace.members if member.study.model.train is None],
    ]
    return _digest(parts)


def _version(workspace: Workspace, shard: Shard) -> str:
    """Return a hash of a shard's content and of the documents in it that are withdrawn."""
    withdrawn = sorted(workspace.withdrawn.of(shard))
    return f"{shard.content_hash}-{_digest(withdrawn)}" if withdrawn else shard.content_hash


def _digest(described: object) -> str:
    canonical = json.dumps(described, sort_keys=True)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
