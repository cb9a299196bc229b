"""The sizes that a study's cost depends on: sequences, queries and the model's shape, counted or estimated."""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from influence_assets.assets.fitted_pass import curvature_bytes, curvature_form, share_to_fit
from influence_assets.corpus.queries import read_query_set
from influence_assets.engine.definition import AssetDefinition
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.layouts.attributed import known_modules
from influence_assets.methods.registry import methods_of
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.study import Study

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from influence_assets.capture.layer_groups import Demand, LayerGroup
    from influence_assets.capture.layer_vectors import Sized
    from influence_assets.capture.operations import LayerShape, ModelShape
    from influence_assets.maths.curvature_form import CurvatureForm

BYTES_A_TOKEN = 4.0
"""Bytes of English text in a token, until the study's own tokenizer has counted."""


@dataclass
class StudySizes:
    """The sizes that a study's cost depends on, each determined once.

    Args:
        versions: the versions of the study's artifacts.
    """

    versions: Versions

    @property
    def study(self) -> Study:
        """The study."""
        return self.versions.workspace.study

    @cached_property
    def shape(self) -> "ModelShape":
        """The shape of the model and of a pass over a training sequence."""
        return self._shape(self.study.sequences.length)

    @cached_property
    def query_shape(self) -> "ModelShape":
        """The shape of the model and of a pass over a query of mean length, padded to the longest of its batch."""
        from influence_assets.models.dimensions import context_length

        padded: list[float] = []
        for lengths in self.query_tokens.values():
            longest_first = sorted(lengths, reverse=True)
            size = self.batch_sequences
            padded += [longest_first[index // size * size] for index in range(len(lengths))]
        tokens = round(sum(padded) / max(1, len(padded)))
        return self._shape(min(max(2, tokens), context_length(self.config)))

    @cached_property
    def config(self) -> "PretrainedConfig":
        """The model's configuration, also of a model that is still to be trained."""
        from transformers import GPT2Config

        from influence_assets.models.config import read_config

        workspace = self.versions.workspace
        training, length = workspace.study.model.train, workspace.study.sequences.length
        model = self.manifest(self._asset("language_model"), Partition())
        if training is None:
            return read_config(workspace.model_folder, trust_remote_code=workspace.study.model.trust_remote_code)
        vocabulary = training.vocabulary if model is None else int(model.summary["vocabulary"])
        return GPT2Config(
            vocab_size=vocabulary, n_positions=length, n_embd=training.width, n_layer=training.layers,
            n_head=training.heads, activation_function="gelu_pytorch_tanh", bos_token_id=0, eos_token_id=0,
        )  # fmt: skip

    @cached_property
    def bytes_a_token(self) -> float:
        """Bytes of text in a token, measured on the part of the corpus that is tokenized."""
        known = {shard: self._packed(shard) for shard in self.versions.workspace.shards}
        tokens = sum(int(manifest.summary["tokens"]) for manifest in known.values() if manifest is not None)
        stored = sum(self.versions.workspace.shard(s).bytes for s, manifest in known.items() if manifest is not None)
        return stored / tokens if tokens else BYTES_A_TOKEN

    @property
    def _is_packed(self) -> bool:
        return self.study.sequences.packing == "packed" and self.study.sequences.documents_see_each_other

    @cached_property
    def _sequences_for_full_ones(self) -> float:
        """Sequences for each that the tokens would fill, measured on the part of the corpus that is tokenized."""
        known = [packed for shard in self.versions.workspace.shards if (packed := self._packed(shard)) is not None]
        tokens = sum(int(manifest.summary["tokens"]) for manifest in known)
        sequences = sum(int(manifest.summary["sequences"]) for manifest in known)
        return sequences * self.study.sequences.length / tokens if tokens else 1.0

    @cached_property
    def is_about(self) -> bool:
        """Whether some shard's number of sequences is estimated from its bytes."""
        return any(self._packed(shard) is None for shard in self.versions.workspace.shards)

    @cached_property
    def query_tokens(self) -> dict[str, list[float]]:
        """The number of tokens of each query by query set, estimated from bytes as long as there is no tokenizer."""
        from influence_assets.layouts.queries import tokenize

        key = self.versions.key(self._asset("language_model"), Partition())
        model = None if key is None or not self.versions.holds(key) else self.versions.workspace.store.open(key)
        lengths: dict[str, list[float]] = {}
        workspace = self.versions.workspace
        for name, file in workspace.query_sets.items():
            queries = read_query_set(file)
            prompts, completions, chats = (list(queries[name]) for name in ("prompt", "completion", "chat"))
            if model is None:
                lengths[name] = [
                    len((p + c).encode()) / BYTES_A_TOKEN for p, c in zip(prompts, completions, strict=True)
                ]
            else:
                places = [f"{file.url}, row {row}" for row in queries["source_row"]]
                lengths[name] = [
                    len(query.tokens) for query in tokenize(model, workspace, prompts, completions, places, chats)
                ]
        return lengths

    @cached_property
    def has_generation(self) -> bool:
        """Whether new shards are computed in an existing generation."""
        return self.versions.generation is not None and self.versions.stands(self._asset("curvature"), Partition())

    @cached_property
    def device(self) -> "torch.device":
        """The device that passes run on."""
        import torch

        return torch.device(self.versions.workspace.device)

    @cached_property
    def batch_sequences(self) -> int:
        """Training sequences in one pass of the model."""
        from influence_assets.capture.batch_size import largest_batch

        setting = self.versions.workspace.study.compute.batch_sequences
        size = (
            largest_batch(self.device, self.shape.sequence_bytes, self.shape.tokens, self.study.compute.memory_bytes)
            if setting == "auto"
            else setting
        )
        return min(size, max(map(self.sequences, self.versions.workspace.shards), default=1))

    @property
    def methods(self) -> int:
        """The number of listed methods whose scores are inner products with training gradients."""
        return len(methods_of(self.versions.workspace.study))

    def sequences(self, shard: str) -> int:
        """Return the number of sequences of a shard, counted or estimated."""
        packed = self._packed(shard)
        if packed is not None:
            return int(packed.summary["sequences"])
        of_bytes = self.versions.workspace.shard(shard).bytes / self.bytes_a_token / self.study.sequences.length
        if not self._is_packed:
            # Documents do not fill their sequences; how many there are is known where some shard is tokenized.
            return max(1, round(of_bytes * self._sequences_for_full_ones))
        return max(1, round(of_bytes))

    def parts(self, shard: str) -> int:
        """Return how many documents' parts of sequences are scored beside the sequences, counted or estimated.

        Of a sequence with k documents these are k − 1; see `capture.scores.PartTotals`.
        """
        packed = self._packed(shard)
        if packed is not None:
            return packed.rows["sequence_documents"] - packed.rows["sequences"]
        return round(self._parts_a_sequence * self.sequences(shard))

    @cached_property
    def _parts_a_sequence(self) -> float:
        known = [packed for shard in self.versions.workspace.shards if (packed := self._packed(shard)) is not None]
        sequences = sum(packed.rows["sequences"] for packed in known)
        return sum(packed.rows["sequence_documents"] for packed in known) / sequences - 1 if sequences else 1.0

    def all_sequences(self) -> int:
        """Return the number of sequences of the corpus."""
        return sum(map(self.sequences, self.versions.workspace.shards))

    def queries(self, query_set: str) -> int:
        """Return the number of queries of a query set."""
        return len(self.query_tokens[query_set])

    @property
    def most_queries(self) -> int:
        """The number of queries of the largest query set."""
        return max(map(self.queries, self.query_tokens), default=0)

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(self.versions.workspace.shards)

    def source_bytes(self, shard: str) -> int:
        """Return the bytes of a shard's source."""
        return self.versions.workspace.shard(shard).bytes

    @cached_property
    def fitted_share(self) -> float:
        """The share of the sequences that a generation is fitted on."""
        return share_to_fit(self.study, self.all_sequences())

    @property
    def all_fitted_sequences(self) -> float:
        """The number of sequences that a generation is fitted on."""
        return self.fitted_share * self.all_sequences()

    def fitted_sequences(self, shard: str) -> float:
        """Return the number of sequences of a shard that are measured for the curvature."""
        return self.fitted_share * self.sequences(shard)

    @property
    def sums_dtype(self) -> "torch.dtype":
        """The dtype of sums."""
        from influence_assets.maths.notation import accumulation_dtype

        return accumulation_dtype(self.shape.dtype)

    @property
    def form(self) -> "CurvatureForm":
        """How much of the factors the study keeps."""
        return curvature_form(self.study)

    @property
    def basis_bytes(self) -> int:
        """Bytes of the eigenvectors of all layers as they are stored; those of low rank are in float64."""
        itemsize = self.shape.sums_itemsize if self.form.rank is None else 8
        return itemsize * sum(layer.form.basis_numbers(layer.d_out, layer.d_in) for layer in self.shape.layers)

    @property
    def eigenvalue_bytes(self) -> int:
        """Bytes of Λ of all layers, in the dtype of sums."""
        numbers = sum(layer.form.eigenvalue_numbers(layer.d_out, layer.d_in) for layer in self.shape.layers)
        return numbers * self.shape.sums_itemsize

    @cached_property
    def factor_totals_bytes(self) -> int:
        """Bytes of the totals of A and S of all layers, or of their sketches, in float64."""
        return 8 * sum(layer.form.total_numbers(layer.d_out, layer.d_in) for layer in self.shape.layers)

    @cached_property
    def drift_bytes(self) -> int:
        """Bytes of a shard's vector of drift."""
        from influence_assets.layouts.drift import vector_sizes

        numbers = sum(sum(vector_sizes(layer.d_out, layer.d_in, layer.form)) for layer in self.shape.layers)
        return numbers * self.shape.sums_itemsize

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradient of all attributed layers, in the dtype of sums."""
        return self.shape.gradient_numbers * self.shape.sums_itemsize

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's weights."""
        return self.shape.parameters * self.shape.dtype.itemsize

    @property
    def loaded_bytes(self) -> int:
        """Bytes of the model in the process's own memory, where it stays loaded between stages."""
        return self.weight_bytes if self.device.type == "cpu" else 0

    @property
    def process_bytes(self) -> int:
        """Resident memory of this process, which has loaded only libraries so far."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def pass_memory(self, held: float) -> int:
        """Return the most bytes in use while the model runs, in the process or on the device.

        Args:
            held: bytes in use in addition to weights and a batch: factors, accumulators, query gradients.
        """
        process = self.process_bytes if self.device.type == "cpu" else 0
        return round(self.weight_bytes + self._batch_bytes + held + process)

    def layer_groups(self, demand: "Demand[LayerShape]") -> "list[LayerGroup[LayerShape]]":
        """Return the groups of layers that take a pass of their own each; one group if all fit into memory.

        Args:
            demand: what a pass holds of each layer.

        Raises:
            InputError: a layer alone takes more than there is.
        """
        from influence_assets.capture.layer_groups import groups_within

        return groups_within(self.shape.layers, demand, self._room)

    def fitted_groups(
        self, bytes_of: "Callable[[Sized, torch.dtype, CurvatureForm], int]"
    ) -> "list[LayerGroup[LayerShape]]":
        """Return the groups of layers, as `layer_groups` does, for totals of `capture.fitted_totals`."""
        from influence_assets.capture.layer_groups import Demand

        return self.layer_groups(Demand(lambda layer: bytes_of(layer, self.sums_dtype, self.form)))

    def curvature_bytes(self, layer: "LayerShape") -> int:
        """Return the bytes of a layer's eigenvectors and Λ."""
        return curvature_bytes(self.form, layer, self.shape.sums_itemsize)

    @cached_property
    def _room(self) -> int:
        """Bytes for what is measured of layers, beside the process, the weights and a batch."""
        from influence_assets.capture.layer_groups import room_for_layers

        most = self.study.compute.memory_bytes
        if self.device.type == "cpu" and most is not None:
            return most - self.pass_memory(0)
        return room_for_layers(self.device, most, self._batch_bytes) - self.weight_bytes

    @property
    def room_for_decomposition(self) -> int:
        """Bytes for the decomposition of a factor, which runs on the processor, beside the model that stays loaded."""
        import torch

        from influence_assets.capture.layer_groups import room_for_layers

        most = self.study.compute.memory_bytes
        room = room_for_layers(torch.device("cpu"), None, 0) if most is None else most - self.process_bytes
        return room - self.loaded_bytes

    @property
    def _batch_bytes(self) -> int:
        return self.batch_sequences * self.shape.sequence_bytes

    def manifest(self, asset: AssetDefinition, partition: Partition) -> Manifest | None:
        """Return the manifest of a partition that is up to date, else None."""
        key = self.versions.key(asset, partition) if self.versions.stands(asset, partition) else None
        return None if key is None else self.versions.workspace.store.manifest(key)

    def was_fitted(self, shard: str) -> bool:
        """Return whether the generation was, or will be, fitted on this shard."""
        generation = self.versions.generation
        return generation is None or shard in generation.fitted_shards

    def _packed(self, shard: str) -> Manifest | None:
        return self.manifest(self._asset("token_sequences"), Partition(shard=shard))

    def _asset(self, name: str) -> AssetDefinition:
        return self.versions.workspace.graph[name]

    @cached_property
    def _modules(self) -> "str | Sequence[str]":
        """The attributed layers; before the model is stored, those that it will choose by its configuration."""
        return known_modules(self.versions, self.config)

    def _shape(self, tokens: int) -> "ModelShape":
        from influence_assets.capture.model_shape import model_shape

        workspace = self.versions.workspace
        study = workspace.study
        keeps_adapter = study.model.train is None and study.model.adapter_attribution == "adapter"
        return model_shape(
            self.config, study.model.dtype, self._modules, tokens=tokens, form=self.form,
            trust_remote_code=study.model.trust_remote_code,
            adapter=workspace.model_folders.adapter if keeps_adapter else None,
        )  # fmt: skip
