"""Which version of each partition the study asks for, as things stand now.

A data version is a hash of the inputs' data versions, of the settings that matter, of the source's content where the
step reads one, and of the code version. So it is known before anything is computed: what stands under its version is
right, and what does not stand is missing.

Three steps are frozen instead, so that a growing corpus does not start them anew: a trained language model is known by
its settings alone, a generation of eigenbases by what it was fitted on, and its curvature by the generation. What each
of them was made of stands in its manifest, from which it can be made again should it be damaged.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

from influence_assets.errors import StorageError
from influence_assets.pipeline.generations import Generation, generations, next_generation_id
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.manifest import ArtifactKey

Found = tuple[ArtifactKey, tuple[ArtifactKey, ...]]
Choice = Literal["newest", "published"]
"""Which generation to ask for: the newest, or the newest that readers see while the newest is not complete."""


class Versions:
    """Keys and inputs of every partition, looked up once each.

    Args:
        workspace: the study and its store.
        choice: which generation is asked for.
        fit_another: fit another generation although one stands.
        pinned: ask for this generation, whatever there is.
    """

    def __init__(
        self,
        workspace: Workspace,
        choice: Choice = "newest",
        *,
        fit_another: bool = False,
        pinned: Generation | None = None,
    ) -> None:
        self.workspace = workspace
        self.choice = choice
        self._fit_another = fit_another
        self._generation = pinned
        self._found: dict[tuple[str, Partition], Found] = {}
        self._held: set[ArtifactKey] = set()
        self._settings: dict[str, dict[str, Any]] = {}

    def partitions(self, step: Step) -> list[Partition]:
        """All partitions of a step, by the source files there are."""
        shards, query_sets = self.workspace.shards, self.workspace.query_sets
        if step.partitioning == "shard":
            return [Partition(shard=shard) for shard in shards]
        if step.partitioning == "query_set":
            return [Partition(query_set=query_set) for query_set in query_sets]
        if step.partitioning == "pair":
            return [Partition(shard, query_set) for query_set in query_sets for shard in shards]
        return [Partition()]

    def key(self, step: Step, partition: Partition) -> ArtifactKey | None:
        """What the partition should be in the store; None while an input of it is missing, so that nobody can say."""
        found = self.find(step, partition)
        return None if found is None else found[0]

    def stands(self, step: Step, partition: Partition) -> bool:
        """Whether the partition is in the store as the study asks for it."""
        key = self.key(step, partition)
        return key is not None and self.holds(key)

    def find(self, step: Step, partition: Partition) -> Found | None:
        """The partition's key and its inputs; None while an input is missing."""
        place = (step.name, partition)
        if (known := self._found.get(place)) is not None:
            return known
        found = _RULES.get(step.name, Versions._plain)(self, step, partition)
        if found is not None:  # else it may be computed meanwhile
            self._found[place] = found
        return found

    def missing_inputs(self, step: Step, partition: Partition) -> list[str]:
        """The inputs that do not stand, as people read them: `asset[partition]`."""
        return [
            f"{upstream.name}[{place.key}]" if place.key else upstream.name
            for upstream, place in self.upstream(step, partition)
            if not self.stands(upstream, place)
        ]

    def upstream(self, step: Step, partition: Partition) -> Iterable[tuple[Step, Partition]]:
        """The upstream partitions that a partition reads."""
        if step.name == "language_model" and self.workspace.study.model.train is None:
            return
        for name in step.upstream:
            upstream = BY_NAME[name]
            for place in self._read(step, partition, upstream):
                yield upstream, place

    def settings(self, step: Step) -> dict[str, Any]:
        """The part of the study that matters to a step."""
        if step.name not in self._settings:
            self._settings[step.name] = dict(step.settings(self.workspace.study))
        return self._settings[step.name]

    def holds(self, key: ArtifactKey) -> bool:
        """Whether an artifact is in the store, looked up until it is."""
        if key not in self._held and self._is_whole(key):
            self._held.add(key)
        return key in self._held

    @property
    def generation(self) -> Generation | None:
        """The generation that is asked for; None while there is none to be had."""
        if self._generation is None:
            usable = self._usable_generations
            published = [g for g in usable if g.is_published] if self.choice == "published" else []
            self._generation = next(iter(published or usable), None)
        return self._generation

    @property
    def has_newer_generation(self) -> bool:
        """Whether another generation was begun after the one that is asked for."""
        newest = next(iter(self._usable_generations), None)
        return newest is not None and self.generation is not None and newest.key != self.generation.key

    @property
    def previous_generation(self) -> Generation | None:
        """The published generation before the one that is asked for, to be compared with it."""
        current = self.generation
        if current is None:
            return None
        earlier = (g for g in self._usable_generations if g.generation_id < current.generation_id and g.is_published)
        return next(earlier, None)

    @cached_property
    def identity(self) -> str:
        """What all generations have in common that are comparable: model, sequences, settings and code.

        Raises:
            StorageError: the language model is missing.
        """
        steps = [BY_NAME[n] for n in ("token_sequences", "covariances", "eigenbases", "corrected_eigenvalues")]
        parts = [[step.code_version, self.settings(step)] for step in steps]
        model = self.key(BY_NAME["language_model"], Partition())
        return _digest([None if model is None else model.data_version, self._model_hashes, parts])

    @cached_property
    def _model_hashes(self) -> list[str]:
        """Weights and tokenizer of the model that stands: a trained one's version does not tell them."""
        key = self.key(BY_NAME["language_model"], Partition())
        if key is None or not self.holds(key):
            raise StorageError("language_model is missing. Bring everything up to date with `influence run`.")
        summary = self.workspace.store.open(key).manifest.summary
        return [summary["weights_hash"], summary["tokenizer_hash"]]

    @property
    def _usable_generations(self) -> list[Generation]:
        """Generations of this identity that stand or can be completed, the newest first."""
        model = self.key(BY_NAME["language_model"], Partition())
        if model is None or not self.holds(model):
            return []
        return [g for g in generations(self.workspace, self.identity) if self._is_usable(g)]

    def _is_usable(self, generation: Generation) -> bool:
        """Whether a generation's parts stand, or can be had from what does.

        A generation without its curvature needs the corrected eigenvalues of the very shards that it was fitted on;
        once one of those has changed it is passed over.
        """
        if not self.holds(generation.key) and not all(map(self.holds, generation.inputs)):
            return False
        if any(all(map(self.holds, inputs)) for inputs in generation.curvatures):
            return True
        if any(self.holds(key) for key in self._curvatures_of(generation)):
            return True
        return all(self._is_as_fitted(shard, version) for shard, version in generation.fitted_shards.items())

    def _curvatures_of(self, generation: Generation) -> list[ArtifactKey]:
        step, model = BY_NAME["curvature"], self.key(BY_NAME["language_model"], Partition())
        return [] if model is None else [self._key(step, Partition(), [model, generation.key])]

    def _is_as_fitted(self, shard: str, data_version: str) -> bool:
        if shard not in self.workspace.shards:
            return False
        key = self.key(BY_NAME["covariances"], Partition(shard=shard))
        return key is not None and key.data_version == data_version

    def _read(self, step: Step, partition: Partition, upstream: Step) -> list[Partition]:
        """The partitions of an upstream step that agree with a partition in what both are about."""
        if step.name == "curvature" and upstream.name == "corrected_eigenvalues":
            generation = self.generation
            return [] if generation is None else [Partition(shard=shard) for shard in generation.fitted_shards]
        if upstream.partitioning == "none":
            return [Partition()]
        if upstream.partitioning == "shard" and partition.shard is not None:
            return [Partition(shard=partition.shard)]
        if upstream.partitioning == "query_set" and partition.query_set is not None:
            return [Partition(query_set=partition.query_set)]
        if upstream.partitioning == "pair" and partition.query_set is not None:
            shards = self.workspace.shards if partition.shard is None else [partition.shard]
            return [Partition(shard, partition.query_set) for shard in shards]
        return self.partitions(upstream)

    def _plain(self, step: Step, partition: Partition) -> Found | None:
        inputs = self._inputs(step, partition)
        return None if inputs is None else (self._key(step, partition, inputs), tuple(inputs))

    def _inputs(self, step: Step, partition: Partition) -> list[ArtifactKey] | None:
        keys = []
        for upstream, place in self.upstream(step, partition):
            key = self.key(upstream, place)
            if key is None or not self.holds(key):
                return None
            keys.append(key)
        return keys

    def _key(self, step: Step, partition: Partition, read: Sequence[ArtifactKey], **described: Any) -> ArtifactKey:
        """The key of a partition that reads these artifacts; the names of what is described are part of it."""
        workspace = self.workspace
        if step.name == "documents":
            shard = workspace.shard(str(partition.shard))
            # A slice's rows keep their numbers in the whole file, which can move without its own bytes changing.
            place = [shard.content_hash, shard.first_row]
            described |= {"content": place, "withdrawn": sorted(workspace.withdrawn.of(shard))}
        elif step.name == "query_gradients":
            described["content"] = workspace.query_hash(workspace.query_file(str(partition.query_set)))
        if any(key.asset == "language_model" for key in read):
            described["model"] = self._model_hashes
        versions = [[key.asset, key.partition, key.data_version] for key in read]
        said = [step.name, partition.key, step.code_version, self.settings(step) | described, versions]
        return ArtifactKey(step.name, partition.key, _digest(said))

    def _language_model(self, step: Step, partition: Partition) -> Found | None:
        if self.workspace.study.model.train is None:
            return self._key(step, partition, (), content=list(self.workspace.model_file_hashes)), ()
        key = self._key(step, partition, ())
        manifest = self.workspace.store.manifest(key)
        if manifest is not None and (self.holds(key) or all(map(self.holds, manifest.inputs))):
            return key, manifest.inputs
        inputs = self._inputs(step, partition)
        return None if inputs is None else (key, tuple(inputs))

    def _eigenbases(self, step: Step, partition: Partition) -> Found | None:
        generation = None if self._fit_another else self.generation
        if generation is not None:
            return generation.key, generation.inputs
        inputs = self._inputs(step, partition)
        if inputs is None:
            return None
        another = next_generation_id(self.workspace) if self._fit_another else False
        return self._key(step, partition, inputs, identity=self.identity, another=another), tuple(inputs)

    def _curvature(self, step: Step, partition: Partition) -> Found | None:
        """The generation's: Λ is frozen with its basis, whatever became of the shards since.

        Where it does not stand, its inputs are those of one that is damaged or damped otherwise, else of the shards
        that were fitted.
        """
        model, eigenbases = (self.key(BY_NAME[name], Partition()) for name in ("language_model", "eigenbases"))
        generation = self.generation
        if model is None or eigenbases is None or generation is None or not self.holds(eigenbases):
            return None
        key = self._key(step, partition, [model, eigenbases])
        manifest = self.workspace.store.manifest(key)
        if manifest is not None and self.holds(key):
            return key, manifest.inputs
        finished = next((inputs for inputs in generation.curvatures if all(map(self.holds, inputs))), None)
        inputs = self._inputs(step, partition) if finished is None else list(finished)
        return None if inputs is None else (key, tuple(inputs))

    def _catalogue(self, step: Step, partition: Partition) -> Found | None:
        """Everything of the generation that is asked for, and what still stands of the one before it."""
        inputs = self._inputs(step, partition)
        if inputs is None:
            return None
        inputs += self._previous()
        tombstones = self.workspace.tombstones.select("shard_id", "document_id", "reason").rows()
        return self._key(step, partition, inputs, tombstones=tombstones), tuple(inputs)

    def _previous(self) -> list[ArtifactKey]:
        """The previous generation's curvature and its scores of sequences and queries that are as they were."""
        if (generation := self.previous_generation) is None:
            return []
        earlier, scores = Versions(self.workspace, pinned=generation), BY_NAME["influence_scores"]
        curvature = earlier.key(BY_NAME["curvature"], Partition())
        keys = [earlier.key(scores, place) for place in earlier.partitions(scores)]
        standing = [key for key in keys if key is not None and earlier.holds(key)]
        return [] if curvature is None or not earlier.holds(curvature) else [curvature, *standing]

    def _is_whole(self, key: ArtifactKey) -> bool:
        if not self.workspace.store.holds(key):
            return False
        if key.asset not in ("eigenbases", "influence_catalogue"):
            return True
        try:
            manifest = self.workspace.store.open(key).manifest
        except StorageError:
            return False  # nobody knows of a generation without it
        return key.asset == "eigenbases" or self.workspace.catalogue_version() == manifest.summary["content_version"]


_RULES = {
    "language_model": Versions._language_model,
    "eigenbases": Versions._eigenbases,
    "curvature": Versions._curvature,
    "influence_catalogue": Versions._catalogue,
}
"""The steps whose version is not that of their inputs alone."""


def _digest(described: object) -> str:
    canonical = json.dumps(described, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
