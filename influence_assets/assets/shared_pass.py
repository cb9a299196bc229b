"""The shared pass: everything outstanding of a shard that needs the model, from one pass over its sequences.

If what all of it holds does not fit into memory, groups of layers take a pass each.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from influence_assets.assets.fitted_pass import curvature_bytes, curvature_form
from influence_assets.engine.definition import AssetDefinition, Measurement, SharedPass, Work
from influence_assets.engine.partitions import Partition
from influence_assets.layouts import LARGEST_QUERIES_BYTES
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.layer_groups import Demand, LayerGroup
    from influence_assets.capture.layer_vectors import Vectors
    from influence_assets.capture.operations import LayerShape
    from influence_assets.capture.participant import Participant
    from influence_assets.capture.runner import Runner
    from influence_assets.maths.curvature import Basis, Curvature
    from influence_assets.models.layers.rule import AttributedLayer

PROBES = 4
"""How many of a shard's sequences are used as queries, to compare its sketches with exact scores."""


class Joined(ABC):
    """An asset's part in a pass."""

    @abstractmethod
    def bytes_of(self, layer: "AttributedLayer", itemsize: int) -> int:
        """Return the bytes that it holds of a layer beside curvature and vectors; `itemsize` is that of sums."""

    def vectors(self) -> "Sequence[Vectors]":
        """Return the vectors that it multiplies the sequences' gradients by."""
        return ()

    @abstractmethod
    def begin(self) -> "Participant":
        """Return the measurement of the context's layers, which the pass runs."""

    def end(self) -> None:  # noqa: B027  # what is added up needs none
        """Note that the pass over these layers is over."""

    @abstractmethod
    def record(self) -> None:
        """Write the results when all layers are measured."""


class PassContext:
    """State that the participants of one pass share, loaded on first use.

    Args:
        works: the work that the pass does, all for one shard.
        sequences: the sequences to measure; None: all of the shard.
        turns: how often they go through the model, but for groups of layers.
    """

    def __init__(self, works: Sequence[Work], sequences: "Sequences | None" = None, *, turns: int = 1) -> None:
        from influence_assets.layouts.model import runner
        from influence_assets.layouts.sequences import shard_sequences

        first = works[0]
        self._works = works
        self.sequences = shard_sequences(first.open("token_sequences")) if sequences is None else sequences
        self.whole: Runner = runner(first.workspace, first.open("language_model"), self._progress)
        """The model with all attributed layers."""
        self.runner = self.whole
        """The model with the layers that are measured now."""
        self.held: frozenset[str] = frozenset()
        """Those of them whose vectors stay in memory."""
        self.results: dict[str, Any] = {}
        """Results that participants share with others that read them, by asset."""
        self._turns = turns
        self._passes = turns

    @property
    def study(self) -> Study:
        """The study."""
        return self._works[0].study

    def _progress(self, done: int, _total: int | None) -> None:
        self._works[0].progress(done, len(self.sequences) * self._passes)

    def groups(self, joined: "Sequence[Joined]") -> "list[LayerGroup[AttributedLayer]]":
        """Return the groups of layers that fit into memory with all that is measured of them."""
        from influence_assets.capture.layer_groups import Demand, groups_in_memory, itemsize_of

        itemsize, form = itemsize_of(self.whole), curvature_form(self.study)

        def bytes_of(layer: "AttributedLayer") -> int:
            return curvature_bytes(form, layer, itemsize) + sum(each.bytes_of(layer, itemsize) for each in joined)

        tokens = self.sequences.tokens.shape[1]
        vectors = [each for one in joined for each in one.vectors()]
        demand = Demand(bytes_of, vectors, itemsize, batch_tokens=self.whole.batch_tokens(tokens))
        groups = groups_in_memory(self.whole, demand, tokens)
        self._passes = self._turns * len(groups)
        return groups

    def enter(self, layers: "Sequence[AttributedLayer]", held: frozenset[str]) -> None:
        """Turn to a group of layers, and free what is loaded for others; arguments as in `LayerGroup`."""
        for loaded in ("curvatures", "bases"):
            self.__dict__.pop(loaded, None)
        self.runner = replace(self.whole, modules=layers)
        self.held = held

    @cached_property
    def curvatures(self) -> "dict[str, Curvature]":
        """The generation's curvature of the layers."""
        from influence_assets.layouts.factors import curvature_on

        work = next(work for work in self._works if "curvature" in {key.asset for key in work.inputs})
        return curvature_on(self.runner, work.open("eigenbases"), work.open("curvature"))

    @cached_property
    def bases(self) -> "dict[str, Basis]":
        """The bases, on the layers' devices, taken from the curvature if that is loaded anyway."""
        from influence_assets.layouts.factors import bases_of, bases_on

        if any(key.asset == "curvature" for work in self._works for key in work.inputs):
            return bases_of(self.curvatures)
        work = next(work for work in self._works if "eigenbases" in {key.asset for key in work.inputs})
        return bases_on(self.runner, work.open("eigenbases"))


def compute(works: Sequence[Work]) -> None:
    """Fill the drafts of several assets for one shard, including assets that are inputs of others among them."""
    context = PassContext(works)
    joined = [work.asset.measures.join(work, context) for work in works if work.asset.measures is not None]
    run_pass(context, joined)


def run_pass(context: PassContext, joined: Sequence[Joined]) -> None:
    """Run a pass over the shard for each group of layers, and record the results."""
    from influence_assets.capture.one_pass import measure
    from influence_assets.layouts.model import label_sampler
    from influence_assets.models.freed_memory import release_unused

    sampler = label_sampler(context.study.curvature)
    groups = context.groups(joined)
    for group in groups:
        context.enter(group.layers, group.held)
        participants = list(dict.fromkeys(each.begin() for each in joined))  # some share one
        bases = context.bases if any(participant.needs_bases for participant in participants) else {}
        measure(context.runner, context.sequences, participants, bases, sampler)
        for each in joined:
            each.end()
        del participants, bases
        if group is not groups[-1]:
            release_unused()  # before the next group is loaded
    context.enter([], frozenset())
    for each in joined:
        each.record()


def operations(sizes: Any, shard: str, members: Sequence[tuple[AssetDefinition, Partition]]) -> float:
    """Count the operations of one pass over a shard that computes these partitions.

    Args:
        sizes: the study's sizes, a `study_sizes.StudySizes`.
        shard: the shard's id.
        members: the partitions with their assets.
    """
    names = frozenset(asset.name for asset, _ in members)
    joined = [
        (asset.measures, partition)
        for asset, partition in members
        if asset.measures is not None and asset.measures.needs_pass(sizes, partition)
    ]
    if not joined:
        return 0.0
    fits = any(measures.fits for measures, _ in joined)
    attributes = not all(measures.fits for measures, _ in joined)
    sequences = sizes.sequences(shard) if attributes else sizes.fitted_sequences(shard)
    # Sampled labels and those of the training data go back through the model one after the other.
    backwards = 1 if sizes.study.curvature.fisher == "empirical" else fits + attributes
    own = sum(measures.operations(sizes, partition, names) for measures, partition in joined)
    demand = _demand(sizes, [measures for measures, _ in joined])
    groups: list[LayerGroup[LayerShape]] = sizes.layer_groups(demand)
    batches = -(-sequences // sizes.batch_sequences)
    making = batches * sum(
        each.operations(layer)
        for group in groups
        for layer in group.layers
        if layer.name not in group.held
        for each in demand.vectors
    )
    return float(sequences * len(groups) * sizes.shape.passes(backwards) + making + own)


def shared_memory(sizes: Any, name: str) -> int:
    """Return the most bytes in use while an asset is computed, with all that its pass computes too.

    Args:
        sizes: the study's sizes, a `study_sizes.StudySizes`.
        name: the asset.
    """
    graph = sizes.versions.workspace.graph
    sharing = [asset for asset in graph.sharing_a_pass_with(graph[name]) if asset.measures is not None]
    together = [asset for asset in sharing if asset.is_due_in(sizes.study) or asset.name == name]
    if not sizes.has_generation:  # then no shard comes after it, which is all that those that fit measure
        together = [asset for asset in together if not asset.measures.fits or asset.name == name]
    groups = sizes.layer_groups(_demand(sizes, [asset.measures for asset in together if asset.measures]))
    return int(sizes.pass_memory(max(group.bytes for group in groups)))


def _demand(sizes: Any, measures: Sequence[Measurement]) -> "Demand[LayerShape]":
    """Return what a pass holds of a layer: its curvature and what is measured of it."""
    from influence_assets.capture.layer_groups import Demand

    once = list(dict.fromkeys(measures))

    def bytes_of(layer: "LayerShape") -> int:
        return int(sizes.curvature_bytes(layer) + sum(each.layer_bytes(sizes, layer) for each in once))

    vectors = [each for one in once for each in one.vectors(sizes)]
    batch_tokens = sizes.batch_sequences * sizes.shape.tokens
    return Demand(bytes_of, vectors, sizes.shape.sums_itemsize, batch_tokens=batch_tokens)


SHARD_PASS = SharedPass(
    name="one pass over a shard", compute=compute, operations=operations, largest_held_bytes=LARGEST_QUERIES_BYTES
)
