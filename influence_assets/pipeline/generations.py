"""Generations of curvature: numbered, frozen, and current for as long as model and settings stay what they are.

A new one is fitted beside the one that is published. It takes its place once everything stands in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.manifest import ArtifactKey, Manifest


@dataclass(frozen=True)
class Generation:
    """A fitted generation.

    Args:
        generation_id: its number, from 1.
        key: its eigenbases.
        inputs: the covariances that it was fitted on.
        fitted_shards: the shards that it was fitted on, with the data versions of their covariances.
        curvatures: the inputs of every curvature of it that was finished.
        is_published: whether the catalogue holds scores of it.
    """

    generation_id: int
    key: ArtifactKey
    inputs: tuple[ArtifactKey, ...]
    fitted_shards: Mapping[str, str]
    curvatures: tuple[tuple[ArtifactKey, ...], ...]
    is_published: bool


def generations(workspace: Workspace, identity: str) -> list[Generation]:
    """All generations of this identity, the newest first, also those whose files were found damaged."""
    published = workspace.published_generations
    finished: dict[ArtifactKey, list[tuple[ArtifactKey, ...]]] = {}
    for manifest in workspace.store.manifests("curvature", with_records=True, with_damaged=True):
        for key in manifest.inputs:
            if key.asset == "eigenbases":
                finished.setdefault(key, []).append(manifest.inputs)
    found = [
        Generation(
            int(manifest.summary["generation_id"]),
            manifest.key,
            manifest.inputs,
            {str(shard): str(version) for shard, version in manifest.summary["fitted_shards"].items()},
            tuple(finished.get(manifest.key, ())),
            int(manifest.summary["generation_id"]) in published,
        )
        for manifest in fitted(workspace)
        if manifest.summary["identity"] == identity
    ]
    return sorted(found, key=lambda generation: -generation.generation_id)


def fitted(workspace: Workspace) -> Iterator[Manifest]:
    """The eigenbases of all generations, those that are damaged too: they are computed again under their number."""
    return workspace.store.manifests("eigenbases", with_records=True, with_damaged=True)


def next_generation_id(workspace: Workspace) -> int:
    """The number of a generation that is about to be fitted."""
    return max((int(manifest.summary["generation_id"]) for manifest in fitted(workspace)), default=0) + 1
