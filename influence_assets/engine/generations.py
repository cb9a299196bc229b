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
        fitted_shards: the shards that it was fitted on, with the data versions of their sequences.
        is_published: whether the catalogue holds its scores.
    """

    generation_id: int
    key: ArtifactKey
    inputs: tuple[ArtifactKey, ...]
    fitted_shards: Mapping[str, str]
    is_published: bool


@dataclass(frozen=True)
class FrozenBySettings:
    """The rule of an asset whose version depends on its settings alone, not on later changes of its inputs.

    A member of an ensemble has it computed from what the first member's was computed from, as long as that is stored,
    and from the first member's own artifact.
    """

    def key_and_inputs(
        self, versions: "Versions", asset: "AssetDefinition", partition: Partition
    ) -> "KeyAndInputs | None":
        """Return the artifact's key and the inputs that it was computed from, or the current ones if it is new."""
        first, described = versions.first, {}
        beside = None if first is None else first.key(asset, partition)
        if first is not None:
            if beside is None or not first.holds(beside):
                return None
            described["beside"] = beside.data_version if asset.identity is None else first.identity_of(beside)
        key = versions.key_from(asset, partition, (), **described)
        manifest = versions.workspace.store.manifest(key)
        if manifest is not None and (versions.holds(key) or all(map(versions.holds, manifest.inputs))):
            return key, manifest.inputs
        inputs = None if beside is None else self._inputs_beside(versions, beside)
        inputs = versions.inputs(asset, partition) if inputs is None else inputs
        return None if inputs is None else (key, (*inputs, *([] if beside is None else [beside])))

    def _inputs_beside(self, versions: "Versions", beside: ArtifactKey) -> list[ArtifactKey] | None:
        """Return what the first member's artifact was computed from; None if that is no longer stored."""
        manifest = versions.workspace.store.manifest(beside)
        is_stored = manifest is not None and all(map(versions.holds, manifest.inputs))
        return list(manifest.inputs) if manifest is not None and is_stored else None

    def frozen_inputs(self, asset: "AssetDefinition", study: Study) -> tuple[str, ...]:
        """Return all inputs."""
        return asset.inputs_of(study)


@dataclass(frozen=True, kw_only=True)
class NumberedGeneration:
    """The rule of the asset that is a generation: it is kept until another is requested, however the corpus changes.

    Args:
        model: the asset that holds the model.
        fitted_on: the asset with the sequences of each shard.
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
        if versions.first is not None and versions.first.generation is None:
            return None  # a member's generation goes with one of the study's own model
        inputs = versions.inputs(asset, partition)
        if inputs is None:
            return None
        another = next_generation_id(versions.workspace) if versions.fit_another else False
        key = versions.key_from(asset, partition, inputs, identity=versions.identity, another=another)
        return key, tuple(inputs)

    def frozen_inputs(self, asset: "AssetDefinition", study: Study) -> tuple[str, ...]:
        """Return the statistics that a generation is fitted on."""
        return asset.inputs_of(study)

    def summary(self, versions: "Versions", key: ArtifactKey) -> dict[str, Any]:
        """Return the entries of a generation's manifest: its number, and the hash that comparable generations share."""
        number = known_generation_id(versions.workspace, key) or next_generation_id(versions.workspace)
        return {"generation_id": number, "identity": versions.identity}


@dataclass(frozen=True, kw_only=True)
class FittedStatistics:
    """The rule of an asset with totals over the shards that a generation is fitted on, as they were then.

    Args:
        fitted_on: the asset with the sequences of each shard.
        precedes: whether it is what the generation is made of, and so is computed for the present shards if there is
            no generation.
    """

    fitted_on: str
    precedes: bool = False

    def key_and_inputs(
        self, versions: "Versions", asset: "AssetDefinition", partition: Partition
    ) -> "KeyAndInputs | None":
        """Return the artifact of the current generation, or the one that would be computed for another."""
        generation = None if self.precedes and versions.fit_another else versions.generation
        if generation is not None:
            return self.of_generation(versions, asset, generation)
        inputs = self._inputs_to_fit(versions, asset, partition) if self.precedes else None
        if inputs is None:
            return None
        inputs.sort(key=lambda key: (key.asset == self.fitted_on, key.partition or ""))
        another = {"another": next_generation_id(versions.workspace)} if versions.fit_another else {}
        return versions.key_from(asset, partition, inputs, **another), tuple(inputs)

    def of_generation(
        self, versions: "Versions", asset: "AssetDefinition", generation: Generation
    ) -> "KeyAndInputs | None":
        """Return the artifact of a generation and its inputs; None while an input is missing."""
        inputs = self._inputs_in(versions, asset, generation)
        if inputs is None:
            return None
        precedes = (key for key in generation.inputs if key.asset == asset.name)
        return next(precedes, None) or versions.key_from(asset, Partition(), inputs), tuple(inputs)

    def _inputs_to_fit(
        self, versions: "Versions", asset: "AssetDefinition", partition: Partition
    ) -> list[ArtifactKey] | None:
        """Return what another generation would be measured on: the present shards.

        For a member of an ensemble, they are those of the generation that its own goes with, if they are still stored.
        """
        if versions.first is None:
            return versions.inputs(asset, partition)
        if (beside := versions.first.generation) is None:
            return None
        inputs = self._inputs_in(versions, asset, beside)
        return inputs if inputs and all(map(versions.holds, inputs)) else versions.inputs(asset, partition)

    def _inputs_in(
        self, versions: "Versions", asset: "AssetDefinition", generation: Generation
    ) -> list[ArtifactKey] | None:
        """Return what an asset is measured on in a generation; None while an input is missing."""
        inputs: list[ArtifactKey] = []
        for name in asset.inputs_of(versions.workspace.study):
            if name == self.fitted_on:
                fitted = sorted(generation.fitted_shards.items())
                inputs += [ArtifactKey(name, shard, version) for shard, version in fitted]
            elif (key := _key_in(versions, generation, name)) is not None:
                inputs.append(key)
            else:
                return None
        return inputs

    def frozen_inputs(self, _asset: "AssetDefinition", _study: Study) -> tuple[str, ...]:
        """Return the sequences, which may change and become more."""
        return (self.fitted_on,)


@dataclass(frozen=True)
class FrozenWithGeneration:
    """The rule of the asset that completes a generation, which stands even if what it was made of is lost."""

    def key_and_inputs(
        self, versions: "Versions", asset: "AssetDefinition", _partition: Partition
    ) -> "KeyAndInputs | None":
        """Return the artifact if it is stored, or if its inputs are."""
        generation = versions.generation
        key_and_inputs = None if generation is None else self.of_generation(versions, asset, generation)
        if key_and_inputs is None:
            return None
        key, inputs = key_and_inputs
        return key_and_inputs if versions.holds(key) or all(map(versions.holds, inputs)) else None

    def of_generation(
        self, versions: "Versions", asset: "AssetDefinition", generation: Generation
    ) -> "KeyAndInputs | None":
        """Return the artifact of a generation and its inputs, stored or not; None while an input is unknown."""
        names = asset.inputs_of(versions.workspace.study)
        keys = [key for name in names if (key := _key_in(versions, generation, name)) is not None]
        return (versions.key_from(asset, Partition(), keys), tuple(keys)) if len(keys) == len(names) else None

    def frozen_inputs(self, _asset: "AssetDefinition", _study: Study) -> tuple[str, ...]:
        """Return none: all of its inputs are frozen themselves."""
        return ()


def _key_in(versions: "Versions", generation: Generation, name: str) -> ArtifactKey | None:
    """Return the key of an asset without partitions in a generation; None if it is unknown."""
    asset = versions.workspace.graph[name]
    if asset is versions.workspace.graph.generation:
        return generation.key
    if isinstance(asset.frozen, FittedStatistics):
        key_and_inputs = asset.frozen.of_generation(versions, asset, generation)
        return None if key_and_inputs is None else key_and_inputs[0]
    return versions.key(asset, Partition())


def generations(workspace: "Workspace", identity: str) -> list[Generation]:
    """Return all generations of this identity, the newest first, also those whose files are damaged."""
    published = workspace.published_generations
    fitted = [
        Generation(
            int(manifest.summary["generation_id"]),
            manifest.key,
            manifest.inputs,
            {str(shard): str(version) for shard, version in manifest.summary["fitted_shards"].items()},
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
