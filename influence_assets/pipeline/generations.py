"""Generations of curvature: numbered, frozen, and current for as long as model and settings stay what they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.manifest import ArtifactKey


@dataclass(frozen=True)
class Generation:
    """A fitted generation.

    Args:
        generation_id: its number, from 1.
        key: its eigenbases.
        fitted_shards: the shards that it was fitted on, with the data versions of their covariances.
    """

    generation_id: int
    key: ArtifactKey
    fitted_shards: Mapping[str, str]


def current_generation(
    workspace: Workspace, identity: str, still_there: Callable[[str, str], bool]
) -> Generation | None:
    """The newest generation of this identity that is complete, or can still be completed.

    A generation without its curvature needs the corrected eigenvalues of the very shards that it was fitted on; once
    one of those has changed, `still_there(shard, version)` is false for it and the generation is passed over.
    """
    finished = {
        key.data_version
        for manifest in workspace.store.manifests("curvature")
        for key in manifest.inputs
        if key.asset == "eigenbases"
    }
    candidates = [m for m in workspace.store.manifests("eigenbases") if m.summary["identity"] == identity]
    for manifest in sorted(candidates, key=lambda m: -int(m.summary["generation_id"])):
        shards = {str(shard): str(version) for shard, version in manifest.summary["fitted_shards"].items()}
        complete = manifest.key.data_version in finished
        if complete or all(still_there(shard, version) for shard, version in shards.items()):
            return Generation(int(manifest.summary["generation_id"]), manifest.key, shards)
    return None


def next_generation_id(workspace: Workspace) -> int:
    """The number of a generation that is about to be fitted."""
    taken = [int(m.summary["generation_id"]) for m in workspace.store.manifests("eigenbases")]
    return max(taken, default=0) + 1
