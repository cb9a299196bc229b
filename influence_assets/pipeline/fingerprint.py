"""Everything outside the store that decides what is outstanding, in one short text."""

import hashlib
import json

from influence_assets.pipeline.graph import STEPS
from influence_assets.pipeline.workspace import Workspace


def sources(workspace: Workspace) -> dict[str, dict[str, str]]:
    """The content of every source, by the name of what it is a source of and its partition's key ("" where none).

    Raises:
        InputError: the corpus, the queries or the model cannot be listed.
    """
    files = {
        "source_files": {name: shard.content_hash for name, shard in workspace.shards.items()},
        "query_files": {name: workspace.query_hash(file) for name, file in workspace.query_sets.items()},
    }
    if workspace.study.model.train is None:
        files["model_files"] = {"": "-".join(workspace.model_file_hashes)}
    return files


def fingerprint(workspace: Workspace) -> str:
    """A hash of the sources, the withdrawn documents, the study and the code.

    Raises:
        InputError: as for `sources`.
    """
    said = [
        sources(workspace),
        sorted(workspace.withdrawn.entries),
        workspace.study.model_dump(mode="json", exclude={"automation"}),
        [step.code_version for step in STEPS],
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]
