"""Generations of curvature: numbered, frozen, and valid until the model or the settings change.

A new generation is filled beside the published one, and replaces it once it is complete.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influence_assets.durable.caches import sealed, unsealed
from influence_assets.engine.partitions import Partition
from influence_assets.storage.artifacts.manifest import ArtifactKey, Manifest
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.engine.definition import AssetDefinition, KeyAndInputs
    from influence_assets.engine.versions import Versions
    from influence_assets.engine.workspace import Workspace

_COUNTER = ".cache/last_generation.json"
_REQUEST = ".cache/requested_generation.json"


@dataclass(frozen=True)
class Generation:
    """A fitted generation.

    Args:
        generation_id: its number, from 1.
        key: the key of its artifact.
        inputs: the artifacts that it was fitted on.
        fitted_shards: the shards that it was fitted on, with the data versions of their statistics.
        ends: for each artifact that completed this generation (`FrozenWithGeneration`), the inputs of that artifact.
        is_published: whether the catalogue holds its scores.
    """

    generation_id: int
    key: ArtifactKey
    inputs: tuple[ArtifactKey, ...]
    fitted_shards: Mapping[str, str]
    ends: tuple[tuple[ArtifactKey, ...], ...]
    is_published: bool


@dataclass(frozen=True)
class FrozenBySettings:
    """The rule of an asset whose version depends on its settings alone, not on later changes of its inputs."""

    def key_and_inputs(
        self, versions: "Versions", asset: "AssetDefinition", partition: Partition
    ) -> "KeyAndInputs | None":
        """Return the artifact's key and the inputs that it was computed from, or the current ones if it is new."""
        key = versions.key_from(asset, partition, ())
        manifest = versions.workspace.store.manifest(key)
        if manifest is not None and (versions.holds(key) or all(map(versions.holds, manifest.inputs))):
            return key, manifest.inputs
        inputs = versions.inputs(asset, partition)
        return None if inputs is None else (key, tuple(inputs))

    def frozen_inputs(self, asset: "AssetDefinition", study: Study) -> tuple[str, ...]:
        """Return all inputs."""
        return asset.inputs_of(study)


@dataclass(frozen=True, kw_only=True)
class NumberedGeneration:
    """The rule of the asset that is a generation: it is kept until another is requested, however the corpus changes.

    Args:
        model: the asset that holds the model.
        fitted_on: the asset with the statistics of each shard.
        identity_of: the assets whose code and settings two generations must share to be comparable.
    """

    model: str
    fitted_on: str
    identity_of: tuple[str, ...]

    def key_and_inputs(
        self, versions: "Versions", asset: "AssetDefinition", partition: Partition
    ) -> "KeyAndInputs | None":
        """Return the current generation, or the one that would be fitted now."""
        generation = None if versions.fit_another else versions.generation
        if generation is not None:
            return generation.key, generation.inputs
        inputs = versions.inputs(asset, partition)
        if inputs is None:
            return None
        another = next_generation_id(versions.workspace) if versions.fit_another else False
        key = versions.key_from(asset, partition, inputs, identity=versions.identity, another=another)
        return key, tuple(inputs)

    def frozen_inputs(self, _asset: "AssetDefinition", _study: Study) -> tuple[str, ...]:
        """Return the statistics that a generation is fitted on."""
        return (self.fitted_on,)

    def summary(self, versions: "Versions", key: ArtifactKey) -> dict[str, Any]:
        """Return the entries of a generation's manifest: its number, and the hash that comparable generations share."""
        number = known_generation_id(versions.workspace, key) or next_generation_id(versions.workspace)
        return {"generation_id": number, "identity": versions.identity}


@dataclass(frozen=True, kw_only=True)
class FrozenWithGeneration:
    """The rule of the asset that completes a generation: it is frozen with it, however the shards change later.

    Args:
        fixed_inputs: the inputs that its version depends on.
    """

    fixed_inputs: tuple[str, ...]

    def key_and_inputs(
        self, versions: "Versions", asset: "AssetDefinition", partition: Partition
    ) -> "KeyAndInputs | None":
        """Return the artifact that is stored, or what it can be computed from again.

        If it is not stored, its inputs are those of a damaged artifact or of one with other settings; failing that,
        the statistics of the shards that the generation was fitted on.
        """
        graph = versions.workspace.graph
        fixed = [versions.key(graph[name], Partition()) for name in self.fixed_inputs]
        generation = versions.generation
        known_keys = [key for key in fixed if key is not None]
        begun = None if graph.generation is None else versions.key(graph.generation, Partition())
        if generation is None or len(known_keys) < len(fixed) or begun is None or not versions.holds(begun):
            return None
        key = versions.key_from(asset, partition, known_keys)
        manifest = versions.workspace.store.manifest(key)
        if manifest is not None and versions.holds(key):
            return key, manifest.inputs
        finished = next((inputs for inputs in generation.ends if all(map(versions.holds, inputs))), None)
        inputs = versions.inputs(asset, partition) if finished is None else list(finished)
        return None if inputs is None else (key, tuple(inputs))

    def frozen_inputs(self, asset: "AssetDefinition", study: Study) -> tuple[str, ...]:
        """Return the inputs that its version does not depend on."""
        return tuple(name for name in asset.inputs_of(study) if name not in self.fixed_inputs)

    def keys_of(self, versions: "Versions", asset: "AssetDefinition", generation: Generation) -> list[ArtifactKey]:
        """Return the key of the artifact that completes a generation under the study's settings, if it is known."""
        graph = versions.workspace.graph
        keys = [
            generation.key if graph[name] is graph.generation else versions.key(graph[name], Partition())
            for name in self.fixed_inputs
        ]
        known_keys = [key for key in keys if key is not None]
        return [versions.key_from(asset, Partition(), known_keys)] if len(known_keys) == len(keys) else []


def generations(workspace: "Workspace", identity: str) -> list[Generation]:
    """Return all generations of this identity, the newest first, also those whose files are damaged."""
    published = workspace.published_generations
    generation, end = workspace.graph.generation, workspace.graph.generation_end
    ends: dict[ArtifactKey, list[tuple[ArtifactKey, ...]]] = {}
    if generation is not None and end is not None:
        for manifest in workspace.store.manifests(end.name, with_records=True, with_damaged=True):
            for key in manifest.inputs:
                if key.asset == generation.name:
                    ends.setdefault(key, []).append(manifest.inputs)
    fitted = [
        Generation(
            int(manifest.summary["generation_id"]),
            manifest.key,
            manifest.inputs,
            {str(shard): str(version) for shard, version in manifest.summary["fitted_shards"].items()},
            tuple(ends.get(manifest.key, ())),
            int(manifest.summary["generation_id"]) in published,
        )
        for manifest in fitted_manifests(workspace)
        if manifest.summary["identity"] == identity
    ]
    return sorted(fitted, key=lambda each: -each.generation_id)


def fitted_manifests(workspace: "Workspace") -> Iterator[Manifest]:
    """Yield the manifests of all generations; damaged ones too, which are computed again under the same number."""
    if workspace.graph.generation is not None:
        name = workspace.graph.generation.name
        yield from workspace.store.manifests(name, with_records=True, with_damaged=True)


def known_generation_id(workspace: "Workspace", generation: ArtifactKey) -> int | None:
    """Return the number of a generation that was fitted before; it keeps the number when it is computed again.

    If the generation's own manifest is damaged, the artifact that completed it still has the number.
    """
    manifests = [workspace.store.manifest(generation)]
    if (end := workspace.graph.generation_end) is not None:
        ends = workspace.store.manifests(end.name, with_records=True, with_damaged=True)
        manifests += [manifest for manifest in ends if generation in manifest.inputs]
    return next((int(manifest.summary["generation_id"]) for manifest in manifests if manifest is not None), None)


def next_generation_id(workspace: "Workspace") -> int:
    """Return the number of a generation that is about to be fitted; no number is used twice."""
    return _last_generation_id(workspace) + 1


def remember_last_generation(workspace: "Workspace") -> None:
    """Store the last number that was used, before the generation that has it may be removed."""
    workspace.store.backend.write(_COUNTER, sealed(_last_generation_id(workspace)))


def request_generation(workspace: "Workspace") -> None:
    """Store that another generation is wanted, so that a run that dies before it begins one leaves the request."""
    workspace.store.backend.write(_REQUEST, sealed(next_generation_id(workspace)))


def is_generation_requested(workspace: "Workspace") -> bool:
    """Return whether a generation was requested that no run has begun yet."""
    return _stored_number(workspace, _REQUEST) > _last_generation_id(workspace)


def _last_generation_id(workspace: "Workspace") -> int:
    stored = [int(manifest.summary["generation_id"]) for manifest in fitted_manifests(workspace)]
    return max([*stored, _stored_number(workspace, _COUNTER)])


def _stored_number(workspace: "Workspace", name: str) -> int:
    """Return a number that was stored under a name; 0 if there is none or it is damaged."""
    try:
        return int(unsealed(workspace.store.backend.read(name)) or 0)
    except OSError:
        return 0
