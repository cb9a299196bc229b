"""A hash of all outside the store that decides what is outstanding: while it stays, the sensor looks no further."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache

from influence_assets.corpus.slices import Shard
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.storage.catalogue.statements import schema_version

WHOLE = ""
"""In the place of a partition's key, of a source that has no partitions."""


@lru_cache(maxsize=2)
def sources(workspace: Workspace) -> Mapping[str, Mapping[str, str]]:
    """The content of every source, by the name of what it is a source of and its partition's key.

    `corpus` and `questions` are all source files and all query files together: they change whenever a file comes,
    changes or goes.

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
    return contents


def fingerprint(workspace: Workspace) -> str:
    """Return a hash of all that enters data versions and is not in the store: sources, withdrawals, study and code.

    Raises:
        InputError: as for `sources`.
    """
    versions = Versions(workspace)
    parts = [
        sources(workspace),
        sorted(workspace.withdrawn.entries),
        workspace.study.model_dump(mode="json", exclude={"automation", "lineage"}),
        # What the assets themselves put into their versions: among it versions of parts, such as a method's.
        [[asset.name, asset.code_version, versions.settings(asset)] for asset in workspace.graph],
        [
            dict(asset.source_content(workspace, partition))
            for asset in workspace.graph
            for partition in versions.partitions(asset)
        ],
        schema_version(),
    ]
    return _digest(parts)


def _version(workspace: Workspace, shard: Shard) -> str:
    """A shard's content, and what of it must not be used."""
    withdrawn = sorted(workspace.withdrawn.of(shard))
    return f"{shard.content_hash}-{_digest(withdrawn)}" if withdrawn else shard.content_hash


def _digest(described: object) -> str:
    canonical = json.dumps(described, sort_keys=True)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
