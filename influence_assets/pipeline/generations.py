"""Generations of curvature: numbered, frozen, and current for as long as model and settings stay what they are.

A new one is fitted beside the one that is published. It takes its place once everything stands in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.manifest import ArtifactKey, Manifest
from influence_assets.storage.small_files import read_cache, replace_cache


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


def known_generation_id(workspace: Workspace, eigenbases: ArtifactKey) -> int | None:
    """The number of a generation that was fitted before, which it keeps when it is damaged and computed again.

    Its curvature knows it too, should even its manifest be damaged.
    """
    known = [workspace.store.manifest(eigenbases)]
    finished = workspace.store.manifests("curvature", with_records=True, with_damaged=True)
    known += [manifest for manifest in finished if eigenbases in manifest.inputs]
    return next((int(manifest.summary["generation_id"]) for manifest in known if manifest is not None), None)


def next_generation_id(workspace: Workspace) -> int:
    """The number of a generation that is about to be fitted; none is given twice."""
    return _last_generation_id(workspace) + 1


def remember_last_generation(workspace: Workspace) -> None:
    """Keep the last number that was given: the generation that has it may be about to be removed."""
    replace_cache(_counter(workspace), _last_generation_id(workspace))


def _last_generation_id(workspace: Workspace) -> int:
    stored = [int(manifest.summary["generation_id"]) for manifest in fitted(workspace)]
    return max([*stored, int(read_cache(_counter(workspace)) or 0)])


def _counter(workspace: Workspace) -> Path:
    return workspace.store.root / ".cache" / "last_generation.json"
