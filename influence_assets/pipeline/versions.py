"""Which version of each partition the study asks for, as things stand now.

A data version is a hash of the inputs' data versions, of the settings that matter, of the source's content where the
step reads one, and of the code version. So it is known before anything is computed: what stands under its version is
right, and what does not stand is missing. Two steps are frozen instead, so that a growing corpus does not start them
anew: a trained language model is known by its settings alone, and a generation by what it was fitted on.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from influence_assets.errors import StorageError
from influence_assets.pipeline.generations import Generation, current_generation
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.workspace import Workspace
from influence_assets.storage.catalogue import standing_content_version
from influence_assets.storage.manifest import ArtifactKey

Found = tuple[ArtifactKey, tuple[ArtifactKey, ...]]


class Versions:
    """Keys and inputs of every partition, looked up once each.

    Args:
        workspace: the study and its store.
        new_generation: fit another generation although one stands.
    """

    def __init__(self, workspace: Workspace, *, new_generation: bool = False) -> None:
        self.workspace = workspace
        self._new_generation = new_generation
        self._found: dict[tuple[str, Partition], Found | None] = {}
        self._held: set[ArtifactKey] = set()
        self._generation: Generation | None = None
        self._hashes: list[str] = []

    def partitions(self, step: Step) -> list[Partition]:
        """All partitions of a step, by the source files there are."""
        shards, query_sets = list(self.workspace.shards), list(self.workspace.query_sets)
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
        return key is not None and self._holds(key)

    def find(self, step: Step, partition: Partition) -> Found | None:
        """The partition's key and its inputs, all of which stand; None while an input is missing."""
        place = (step.name, partition)
        if place not in self._found:
            found = self._find(step, partition)
            if found is None:
                return None  # not remembered: the input may be computed meanwhile
            self._found[place] = found
        return self._found[place]

    def missing_inputs(self, step: Step, partition: Partition) -> list[str]:
        """The inputs that do not stand, as people read them: `asset[partition]`."""
        return [
            f"{name}[{upstream.key}]" if upstream.key else name
            for name, upstream in self._upstream(step, partition)
            if not self.stands(BY_NAME[name], upstream)
        ]

    def _find(self, step: Step, partition: Partition) -> Found | None:
        if step.name == "eigenbases":
            return self._eigenbases(step)
        inputs = self._inputs(step, partition)
        if inputs is None:
            return None
        key = self._key(step, partition, inputs)
        return key, tuple(inputs)

    def _key(self, step: Step, partition: Partition, inputs: Sequence[ArtifactKey]) -> ArtifactKey:
        workspace = self.workspace
        described: dict[str, Any] = {}
        read = inputs
        if step.name == "documents":
            described["content"] = workspace.content_hash(workspace.source(str(partition.shard)))
        elif step.name == "query_gradients":
            described["content"] = workspace.content_hash(workspace.query_file(str(partition.query_set)))
        elif step.name == "language_model" and workspace.study.model.train is None:
            described["content"] = list(workspace.model_file_hashes)
        elif step.name == "language_model":
            read = ()  # frozen: trained once
        elif step.name == "curvature":
            read = [key for key in inputs if key.asset == "eigenbases"]  # frozen with its generation
        if any(key.asset == "language_model" for key in inputs):
            described["model"] = self._model_hashes()
        return version_of(step, partition, dict(step.settings(workspace.study)) | described, read)

    def _inputs(self, step: Step, partition: Partition) -> list[ArtifactKey] | None:
        if step.name == "language_model" and (held := self._trained(step, partition)) is not None:
            return held
        if step.name == "curvature" and (held := self._fitted_curvature(step, partition)) is not None:
            return held
        keys = []
        for name, upstream in self._upstream(step, partition):
            key = self.key(BY_NAME[name], upstream)
            if key is None or not self._holds(key):
                return None
            keys.append(key)
        return keys

    def _upstream(self, step: Step, partition: Partition) -> list[tuple[str, Partition]]:
        """The upstream partitions that a partition reads."""
        if step.name == "language_model" and self.workspace.study.model.train is None:
            return []
        return [(name, p) for name in step.upstream for p in self._read(step, partition, BY_NAME[name])]

    def _read(self, step: Step, partition: Partition, upstream: Step) -> list[Partition]:
        if step.name == "curvature" and upstream.name == "corrected_eigenvalues":
            generation = self._current()
            return [] if generation is None else [Partition(shard=shard) for shard in generation.fitted_shards]
        return [p for p in self.partitions(upstream) if _agree(p, partition)]

    def _trained(self, step: Step, partition: Partition) -> list[ArtifactKey] | None:
        """The inputs of a trained model that stands, whatever documents have come since."""
        return self._standing_inputs(self._key(step, partition, ())) if self.workspace.study.model.train else None

    def _fitted_curvature(self, step: Step, partition: Partition) -> list[ArtifactKey] | None:
        """The inputs of the generation's curvature if it stands, whatever became of the shards since.

        A curvature of the generation that is damped otherwise has the same inputs: Λ is frozen with its basis.
        """
        model, eigenbases = (self.key(BY_NAME[name], Partition()) for name in ("language_model", "eigenbases"))
        if model is None or eigenbases is None:
            return None
        if (held := self._standing_inputs(self._key(step, partition, [model, eigenbases]))) is not None:
            return held
        fitted = (m.inputs for m in self.workspace.store.manifests("curvature") if eigenbases in m.inputs)
        return next((list(inputs) for inputs in fitted if all(map(self._holds, inputs))), None)

    def _standing_inputs(self, key: ArtifactKey) -> list[ArtifactKey] | None:
        return list(self.workspace.store.open(key).manifest.inputs) if self._holds(key) else None

    def _current(self) -> Generation | None:
        if self._generation is None:
            model = self.key(BY_NAME["language_model"], Partition())
            if model is not None and self._holds(model):
                self._generation = current_generation(self.workspace, self.identity(model), self._still_there)
        return self._generation

    def identity(self, language_model: ArtifactKey) -> str:
        """What all generations have in common that are comparable: model, sequences, settings and code."""
        study, steps = self.workspace.study, ("token_sequences", "covariances", "eigenbases", "corrected_eigenvalues")
        parts = [[BY_NAME[n].code_version, dict(BY_NAME[n].settings(study))] for n in steps]
        return _digest([language_model.data_version, self._model_hashes(), parts])

    def _model_hashes(self) -> list[str]:
        """Weights and tokenizer of the model that stands: a trained one's version does not tell them."""
        if not self._hashes:
            key = self.key(BY_NAME["language_model"], Partition())
            if key is None:
                raise StorageError("language_model is missing. Bring everything up to date with `influence run`.")
            summary = self.workspace.store.open(key).manifest.summary
            self._hashes = [summary["weights_hash"], summary["tokenizer_hash"]]
        return self._hashes

    def _still_there(self, shard: str, data_version: str) -> bool:
        """Whether a shard that a generation was fitted on is what it was then."""
        if shard not in self.workspace.shards:
            return False
        key = self.key(BY_NAME["covariances"], Partition(shard=shard))
        return key is not None and key.data_version == data_version

    def _eigenbases(self, step: Step) -> Found | None:
        generation = None if self._new_generation else self._current()
        if generation is not None:
            return generation.key, tuple(self.workspace.store.open(generation.key).manifest.inputs)
        inputs = self._inputs(step, Partition())
        model = self.key(BY_NAME["language_model"], Partition())
        if inputs is None or model is None:
            return None
        described = {"identity": self.identity(model), "another": self._new_generation and _count(self.workspace)}
        return version_of(step, Partition(), described, inputs), tuple(inputs)

    def _holds(self, key: ArtifactKey) -> bool:
        if key not in self._held and self._is_whole(key):
            self._held.add(key)
        return key in self._held

    def _is_whole(self, key: ArtifactKey) -> bool:
        if not self.workspace.store.holds(key):
            return False
        if key.asset != "influence_catalogue":
            return True
        loaded = str(self.workspace.store.open(key).manifest.summary["content_version"])
        return standing_content_version(self.workspace.catalogue) == loaded


def version_of(
    step: Step, partition: Partition, described: Mapping[str, Any], inputs: Sequence[ArtifactKey]
) -> ArtifactKey:
    """The key of a partition with these inputs."""
    versions = [[key.asset, key.partition, key.data_version] for key in inputs]
    return ArtifactKey(
        step.name, partition.key, _digest([step.name, partition.key, step.code_version, dict(described), versions])
    )


def _digest(described: object) -> str:
    canonical = json.dumps(described, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _agree(one: Partition, other: Partition) -> bool:
    """Whether two partitions name the same shard and query set, as far as both name any."""
    shards = one.shard is None or other.shard is None or one.shard == other.shard
    return shards and (one.query_set is None or other.query_set is None or one.query_set == other.query_set)


def _count(workspace: Workspace) -> int:
    return sum(1 for _ in workspace.store.manifests("eigenbases"))
