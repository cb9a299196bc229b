"""The sizes that a study's cost depends on: sequences, queries and the model's shape, counted or estimated."""

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import AutoConfig, GPT2Config, PretrainedConfig

from influence_assets.capture.batch_size import largest_batch
from influence_assets.capture.operations import ModelShape, model_shape
from influence_assets.corpus.queries import read_query_set
from influence_assets.models.dimensions import context_length
from influence_assets.pipeline.graph import BY_NAME
from influence_assets.pipeline.queries import tokenize
from influence_assets.pipeline.steps import Partition, Step
from influence_assets.pipeline.versions import Versions
from influence_assets.storage.manifest import Manifest

BYTES_A_TOKEN = 4.0
"""Of English text, until the study's own tokenizer has said."""


@dataclass
class StudySizes:
    """The sizes that a study's cost depends on, looked up once each.

    Args:
        versions: a look at the study.
    """

    versions: Versions

    @cached_property
    def shape(self) -> ModelShape:
        """The model, and a training sequence's pass."""
        return self._shape(self.versions.workspace.study.sequences.length)

    @cached_property
    def query_shape(self) -> ModelShape:
        """The model, and the pass of a query of middling length, padded to the longest of its batch."""
        padded: list[float] = []
        for lengths in self.query_tokens.values():
            longest_first = sorted(lengths, reverse=True)
            size = self.batch_sequences
            padded += [longest_first[index // size * size] for index in range(len(lengths))]
        tokens = round(sum(padded) / max(1, len(padded)))
        return self._shape(min(max(2, tokens), context_length(self.config)))

    @cached_property
    def config(self) -> PretrainedConfig:
        """The model's, or what it will be."""
        workspace = self.versions.workspace
        training, length = workspace.study.model.train, workspace.study.sequences.length
        model = self.manifest(BY_NAME["language_model"], Partition())
        if training is None:
            trusted = workspace.study.model.trust_remote_code
            brought: PretrainedConfig = AutoConfig.from_pretrained(
                workspace.model_folder, trust_remote_code=trusted, local_files_only=True
            )
            return brought
        vocabulary = training.vocabulary if model is None else int(model.summary["vocabulary"])
        return GPT2Config(
            vocab_size=vocabulary, n_positions=length, n_embd=training.width, n_layer=training.layers,
            n_head=training.heads, activation_function="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0,
        )  # fmt: skip

    @cached_property
    def bytes_a_token(self) -> float:
        """Of the corpus as far as it is tokenized."""
        known = {shard: self._packed(shard) for shard in self.versions.workspace.shards}
        tokens = sum(int(manifest.summary["tokens"]) for manifest in known.values() if manifest is not None)
        stored = sum(self.versions.workspace.shard(s).bytes for s, manifest in known.items() if manifest is not None)
        return stored / tokens if tokens else BYTES_A_TOKEN

    @cached_property
    def is_about(self) -> bool:
        """Whether sequences of some shard are not counted but estimated from its bytes."""
        return any(self._packed(shard) is None for shard in self.versions.workspace.shards)

    @cached_property
    def query_tokens(self) -> dict[str, list[float]]:
        """Of each query set the tokens of each query; estimated from its bytes before there is a tokenizer."""
        key = self.versions.key(BY_NAME["language_model"], Partition())
        model = None if key is None or not self.versions.holds(key) else self.versions.workspace.store.open(key)
        lengths: dict[str, list[float]] = {}
        for name, file in self.versions.workspace.query_sets.items():
            asked = read_query_set(file)
            prompts, completions = list(asked["prompt"]), list(asked["completion"])
            if model is None:
                lengths[name] = [
                    len((p + c).encode()) / BYTES_A_TOKEN for p, c in zip(prompts, completions, strict=True)
                ]
            else:
                places = [f"{file.url}, row {row}" for row in asked["source_row"]]
                lengths[name] = [len(query.tokens) for query in tokenize(model, prompts, completions, places)]
        return lengths

    @cached_property
    def has_generation(self) -> bool:
        """Whether shards that come now are computed in a generation that stands."""
        return self.versions.generation is not None and self.versions.stands(BY_NAME["curvature"], Partition())

    @cached_property
    def device(self) -> torch.device:
        """That the passes run on."""
        return torch.device(self.versions.workspace.device)

    @cached_property
    def batch_sequences(self) -> int:
        """Training sequences in one pass of the model."""
        given = self.versions.workspace.study.compute.batch_sequences
        size = largest_batch(self.device, self.shape.sequence_bytes, self.shape.tokens) if given == "auto" else given
        return min(size, max(map(self.sequences, self.versions.workspace.shards), default=1))

    @property
    def methods(self) -> int:
        """That score: EK-FAC, and the baselines."""
        return 1 + len(self.versions.workspace.study.scores.baselines)

    def sequences(self, shard: str) -> int:
        """Of a shard, counted or estimated."""
        packed = self._packed(shard)
        if packed is not None:
            return int(packed.summary["sequences"])
        length = self.versions.workspace.study.sequences.length
        return max(1, round(self.versions.workspace.shard(shard).bytes / self.bytes_a_token / length))

    def all_sequences(self) -> int:
        """Of the corpus."""
        return sum(map(self.sequences, self.versions.workspace.shards))

    def queries(self, query_set: str) -> int:
        """Of a query set."""
        return len(self.query_tokens[query_set])

    def manifest(self, step: Step, partition: Partition) -> Manifest | None:
        """Of what stands of a partition."""
        key = self.versions.key(step, partition) if self.versions.stands(step, partition) else None
        return None if key is None else self.versions.workspace.store.manifest(key)

    def was_fitted(self, shard: str) -> bool:
        """Whether the generation was fitted on this shard, so that its steps ran one after the other."""
        generation = self.versions.generation
        return generation is not None and shard in generation.fitted_shards

    def _packed(self, shard: str) -> Manifest | None:
        return self.manifest(BY_NAME["token_sequences"], Partition(shard=shard))

    def _shape(self, tokens: int) -> ModelShape:
        study = self.versions.workspace.study
        return model_shape(
            self.config, study.model.dtype, study.curvature.modules, tokens=tokens, blocks=study.curvature.blocks,
            trust_remote_code=study.model.trust_remote_code,
        )  # fmt: skip
