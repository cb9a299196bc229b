"""The version of each partition that the study currently needs.

A data version is a hash of the inputs' data versions, the settings that matter, the source's content if the asset reads
one, and the code version. So it is known before anything is computed: an artifact that is stored under its version is
right, and a version that is not stored must be computed.

Some assets are frozen instead (`AssetDefinition.frozen`), so that a growing corpus does not recompute them. The
manifest of a frozen artifact lists its inputs, so that it can be computed again if it is damaged.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

from influence_assets.engine.definition import AssetDefinition, KeyAndInputs
from influence_assets.engine.generations import (
    FittedStatistics,
    FrozenWithGeneration,
    Generation,
    NumberedGeneration,
    generations,
)
from influence_assets.engine.partitions import Partition
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey

MEMBER = "member"
"""The entry of a manifest's summary with the number of the member of an ensemble that it was computed for, unless 0."""

Choice = Literal["newest", "published"]
"""Which generation to use: the newest, or the newest published one, which readers see until the newest is complete."""


class Versions:
    """The keys and inputs of all partitions, each looked up once.

    Args:
        workspace: the study and its store.
        choice: which generation to use.
        fit_another: whether another generation is to be fitted although there is one.
        pinned: a generation to use regardless of `choice`.
        first: of a member of an ensemble, the versions of the study's own model, if they are at hand.
    """

    def __init__(
        self,
        workspace: Workspace,
        choice: Choice = "newest",
        *,
        fit_another: bool = False,
        pinned: Generation | None = None,
        first: "Versions | None" = None,
    ) -> None:
        self.workspace = workspace
        self.choice = choice
        self.fit_another = fit_another
        self._generation = pinned
        self._first = first
        self._keys_and_inputs: dict[tuple[str, Partition], KeyAndInputs] = {}
        self._held: set[ArtifactKey] = set()
        self._settings: dict[str, dict[str, Any]] = {}
        self._identities: dict[ArtifactKey, Any] = {}

    @cached_property
    def first(self) -> "Versions | None":
        """Of a member of an ensemble, the versions of the study's own model; None if these are those versions."""
        workspace = self.workspace.first
        return self._first or (None if workspace is None else Versions(workspace, self.choice))

    @cached_property
    def members(self) -> "tuple[Versions, ...]":
        """The versions of the ensemble's further members."""
        return tuple(Versions(member, self.choice, first=self) for member in self.workspace.members)

    @property
    def number(self) -> int:
        """The member's number: 0 for the study's own model, then 1, 2, ...."""
        return self.workspace.study.number

    def of(self, asset: AssetDefinition) -> "Versions":
        """Return the versions that an asset's partitions are in: those of the first member if all of them share it."""
        return self.first if asset.is_shared_by_members and self.first is not None else self

    def partitions(self, asset: AssetDefinition) -> list[Partition]:
        """Return the partitions of an asset that the study has, given the source files that exist.

        Of an asset that is computed on request only, these are the requested ones and those that are up to date.
        """
        partitions = self._all_partitions(asset)
        if asset.is_due_in(self.workspace.study):
            return partitions
        requested = self.workspace.requested.get(asset.name, ())
        return [partition for partition in partitions if partition in requested or self._is_held(asset, partition)]

    def _is_held(self, asset: AssetDefinition, partition: Partition) -> bool:
        # Its version, which may depend on thousands of inputs, is asked for only if there is any.
        has_any = self.workspace.store.has_any(asset.name, partition.key)
        return has_any and (key := self.key(asset, partition)) is not None and self.holds(key)

    def _all_partitions(self, asset: AssetDefinition) -> list[Partition]:
        if asset.partitioned_by == "listed":
            return [Partition(name=name) for name in asset.listed(self.workspace.study)]
        shards, query_sets = self.workspace.shards, self.workspace.query_sets
        if asset.partitioned_by == "shard":
            return [Partition(shard=shard) for shard in shards]
        if asset.partitioned_by == "query_set":
            return [Partition(query_set=query_set) for query_set in query_sets]
        if asset.partitioned_by == "pair":
            return [Partition(shard, query_set) for query_set in query_sets for shard in shards]
        return [Partition()]

    def key(self, asset: AssetDefinition, partition: Partition) -> ArtifactKey | None:
        """Return the partition's key in the store; None while it is unknown because an input is missing."""
        key_and_inputs = self.key_and_inputs(asset, partition)
        return None if key_and_inputs is None else key_and_inputs[0]

    def stands(self, asset: AssetDefinition, partition: Partition) -> bool:
        """Return whether the partition is up to date: its version is in the store, or no longer needed there."""
        key = self.key(asset, partition)
        return key is not None and (self.holds(key) or self.is_spent(asset))

    def is_spent(self, asset: AssetDefinition) -> bool:
        """Return whether an asset's artifacts are no longer needed (`AssetDefinition.needed_until`)."""
        return asset.needed_until is not None and self.stands(self.workspace.graph[asset.needed_until], Partition())

    def key_and_inputs(self, asset: AssetDefinition, partition: Partition) -> KeyAndInputs | None:
        """Return the partition's key and its inputs; None while an input is missing."""
        if (owner := self.of(asset)) is not self:
            return owner.key_and_inputs(asset, partition)
        place = (asset.name, partition)
        if place not in self._keys_and_inputs:
            if asset.frozen is not None:
                key_and_inputs = asset.frozen.key_and_inputs(self, asset, partition)
            else:
                inputs = self.inputs(asset, partition)
                key_and_inputs = None if inputs is None else (self.key_from(asset, partition, inputs), tuple(inputs))
            if key_and_inputs is None:
                return None  # not cached: the input may be computed later
            self._keys_and_inputs[place] = key_and_inputs
        return self._keys_and_inputs[place]

    def missing_inputs(self, asset: AssetDefinition, partition: Partition) -> list[str]:
        """Return the inputs that are missing or out of date, written as `asset[partition]`."""
        return [
            f"{upstream.name}[{place.key}]" if place.key else upstream.name
            for upstream, place in self.upstream(asset, partition)
            if not self.stands(upstream, place)
        ]

    def upstream(self, asset: AssetDefinition, partition: Partition) -> Iterable[tuple[AssetDefinition, Partition]]:
        """Yield the partitions that a partition reads, with their assets."""
        for name in asset.inputs_of(self.workspace.study):
            upstream = self.workspace.graph[name]
            for place in self._partitions_read(partition, upstream):
                yield upstream, place

    def settings(self, asset: AssetDefinition) -> dict[str, Any]:
        """Return the settings of the study that enter an asset's version.

        What the study leaves open is as the asset's inputs have settled it (`AssetDefinition.settles`), once they are
        stored.
        """
        if asset.name in self._settings:
            return self._settings[asset.name]
        study, is_settled = self.workspace.study, True
        for upstream in (self.workspace.graph[name] for name in asset.inputs_of(study)):
            if upstream.settles is not None:
                key = self.key(upstream, Partition())
                manifest = None if key is None else self.workspace.store.manifest(key)
                is_settled &= manifest is not None
                study = study if manifest is None else upstream.settles(study, manifest)
        settings = dict(asset.settings(study))
        if is_settled:  # else it may be later
            self._settings[asset.name] = settings
        return settings

    def holds(self, key: ArtifactKey) -> bool:
        """Return whether an artifact is in the store and valid; once it is, the answer is cached."""
        if key not in self._held and self._is_valid(key):
            self._held.add(key)
        return key in self._held

    def forget(self, key: ArtifactKey) -> None:
        """Look again whether an artifact is in the store, because it was removed."""
        self._held.discard(key)

    def inputs(self, asset: AssetDefinition, partition: Partition) -> list[ArtifactKey] | None:
        """Return the keys of all inputs of a partition; None while one of them is missing."""
        keys = []
        for upstream, place in self.upstream(asset, partition):
            key = self.key(upstream, place)
            if key is None or not self.holds(key):
                return None
            keys.append(key)
        return keys

    def key_from(
        self, asset: AssetDefinition, partition: Partition, inputs: Sequence[ArtifactKey], **described: Any
    ) -> ArtifactKey:
        """Return the key of a partition that is computed from these artifacts.

        Args:
            asset: the asset.
            partition: its partition.
            inputs: the artifacts that its version depends on.
            described: further values that its version depends on; their names are part of the version.

        Raises:
            StorageError: an input whose content enters the version is missing.
        """
        described |= asset.source_content(self.workspace, partition)
        for key in inputs:
            upstream = self.workspace.graph[key.asset]
            if upstream.identity is not None:
                described[upstream.identity[0]] = self.identity_of(key)
        versions = [[key.asset, key.partition, key.data_version] for key in inputs]
        parts = [asset.name, partition.key, asset.code_version, self.settings(asset) | described, versions]
        return ArtifactKey(asset.name, partition.key, _digest(parts))

    def identity_of(self, key: ArtifactKey) -> Any:
        """Return the content of an artifact that enters its readers' versions (`AssetDefinition.identity`).

        Raises:
            StorageError: the artifact is missing.
        """
        if key not in self._identities:
            identity = self.workspace.graph[key.asset].identity
            if identity is None or not self.holds(key):
                raise StorageError(f"{key.asset} is missing. Bring everything up to date with `influence run`.")
            self._identities[key] = identity[1](self.workspace.store.open(key).manifest)
        return self._identities[key]

    @property
    def generation(self) -> Generation | None:
        """The generation that is used; None if none is usable."""
        if self._generation is None:
            usable = self._usable_generations
            published = [g for g in usable if g.is_published] if self.choice == "published" else []
            self._generation = next(iter(published or usable), None)
        return self._generation

    @property
    def has_newer_generation(self) -> bool:
        """Whether another generation was begun after the one that is used."""
        newest = next(iter(self._usable_generations), None)
        return newest is not None and self.generation is not None and newest.key != self.generation.key

    @property
    def previous_generation(self) -> Generation | None:
        """The published generation before the one that is used, for comparison."""
        current = self.generation
        if current is None:
            return None
        earlier = (g for g in self._usable_generations if g.generation_id < current.generation_id and g.is_published)
        return next(earlier, None)

    @cached_property
    def identity(self) -> str:
        """A hash of what comparable generations have in common: model, sequences, settings and code.

        A member's is that of one generation of the study's own model, so that both are fitted anew together.

        Raises:
            StorageError: the language model is missing, or the generation that a member's goes with.
        """
        graph, rule = self.workspace.graph, self._generation_rule
        assert rule is not None  # noqa: S101  # only read if the graph has generations
        parts = [[graph[name].code_version, self.settings(graph[name])] for name in rule.identity_of]
        model = self.key(graph[rule.model], Partition())
        if model is None:
            raise StorageError(f"{rule.model} is missing. Bring everything up to date with `influence run`.")
        if self.first is None:
            return _digest([model.data_version, self.identity_of(model), parts])
        if (beside := self.first.generation) is None:
            raise StorageError("The study's own model has no generation. Bring it up to date with `influence run`.")
        return _digest([model.data_version, self.identity_of(model), parts, beside.key.data_version])

    @property
    def _generation_rule(self) -> NumberedGeneration | None:
        generation = self.workspace.graph.generation
        rule = None if generation is None else generation.frozen
        return rule if isinstance(rule, NumberedGeneration) else None

    @property
    def _usable_generations(self) -> list[Generation]:
        """The generations of this identity that are complete or can be completed, the newest first."""
        rule = self._generation_rule
        if rule is None or (self.first is not None and self.first.generation is None):
            return []
        model = self.key(self.workspace.graph[rule.model], Partition())
        if model is None or not self.holds(model):
            return []
        return [g for g in generations(self.workspace, self.identity) if self._is_usable(g, rule)]

    def _is_usable(self, generation: Generation, rule: NumberedGeneration) -> bool:
        """Return whether a generation's parts are stored, or can be computed from what is stored.

        If a part is missing, the very shards that the generation was fitted on are needed; once one of these has
        changed, the generation is skipped. As long as the generation is complete but for its totals, shards that are
        not known to have changed are taken to be as they were.
        """
        is_fitted = self.holds(generation.key) or all(map(self.holds, generation.inputs))
        if is_fitted and all(map(self.holds, self._statistics_in(generation))):
            return True
        is_complete = is_fitted and any(map(self.holds, self._end_of(generation)))
        fitted_on = self.workspace.graph[rule.fitted_on]
        return all(
            self._is_as_fitted(fitted_on, shard, version, if_unknown=is_complete)
            for shard, version in generation.fitted_shards.items()
        )

    def _end_of(self, generation: Generation) -> Iterator[ArtifactKey]:
        """Yield the key of the artifact that completes a generation under the study's settings, if it is known."""
        end = self.workspace.graph.generation_end
        if end is not None and isinstance(end.frozen, FrozenWithGeneration):
            key_and_inputs = end.frozen.of_generation(self, end, generation)
            if key_and_inputs is not None:
                yield key_and_inputs[0]

    def _statistics_in(self, generation: Generation) -> Iterator[ArtifactKey]:
        """Yield the keys of the totals that were measured in a generation's basis."""
        for asset in self.workspace.graph:
            if isinstance(asset.frozen, FittedStatistics) and not asset.frozen.precedes:
                key_and_inputs = asset.frozen.of_generation(self, asset, generation)
                if key_and_inputs is not None:
                    yield key_and_inputs[0]

    def _is_as_fitted(self, fitted_on: AssetDefinition, shard: str, data_version: str, *, if_unknown: bool) -> bool:
        if shard not in self.workspace.shards:
            return False
        key = self.key(fitted_on, Partition(shard=shard))
        return if_unknown if key is None else key.data_version == data_version

    def _partitions_read(self, partition: Partition, upstream: AssetDefinition) -> list[Partition]:
        """Return the partitions of an upstream asset that a partition reads: those with the same shard or query set."""
        if not upstream.is_due_in(self.workspace.study):  # what there is of it
            return self.partitions(upstream)
        if upstream.partitioned_by == "none":
            return [Partition()]
        if upstream.partitioned_by == "shard" and partition.shard is not None:
            return [Partition(shard=partition.shard)]
        if upstream.partitioned_by == "query_set" and partition.query_set is not None:
            return [Partition(query_set=partition.query_set)]
        if upstream.partitioned_by == "pair" and partition.query_set is not None:
            shards = self.workspace.shards if partition.shard is None else [partition.shard]
            return [Partition(shard, partition.query_set) for shard in shards]
        return self.partitions(upstream)

    def _is_valid(self, key: ArtifactKey) -> bool:
        if not self.workspace.store.holds(key):
            return False
        asset = self.workspace.graph.get(key.asset)
        if asset is None or asset.is_current is None:
            return True
        try:
            manifest = self.workspace.store.open(key).manifest
        except StorageError:
            return False
        return asset.is_current(self.workspace, manifest)


def _digest(described: object) -> str:
    canonical = json.dumps(described, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
