"""The shared pass: everything outstanding of a shard that needs the model, from one pass over its sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from influence_assets.engine.definition import AssetDefinition, SharedPass, Work
from influence_assets.engine.partitions import Partition
from influence_assets.layouts import LARGEST_QUERIES_BYTES

if TYPE_CHECKING:
    from influence_assets.capture.participant import Participant
    from influence_assets.capture.runner import Runner
    from influence_assets.maths.ekfac import Eigenbasis, LayerCurvature

PROBES = 4
"""How many of a shard's sequences are used as queries, to compare its sketches with exact scores."""


@dataclass(frozen=True)
class Joined:
    """An asset's part in a pass.

    Args:
        participant: the measurement that the pass runs.
        record: writes the results when the pass is over.
    """

    participant: "Participant"
    record: Callable[[], None]


class PassContext:
    """State that the participants of one pass share, loaded once on first use.

    Args:
        works: the work that the pass does, all for one shard.
    """

    def __init__(self, works: Sequence[Work]) -> None:
        from influence_assets.layouts.model import runner
        from influence_assets.layouts.sequences import shard_sequences

        first = works[0]
        self._works = works
        self.sequences = shard_sequences(first.open("token_sequences"))
        self.runner: Runner = runner(first.workspace, first.open("language_model"), first.progress, len(self.sequences))
        self.results: dict[str, Any] = {}
        """Results that participants share with others that read them, by asset."""

    @cached_property
    def curvatures(self) -> "dict[str, LayerCurvature]":
        """The generation's curvature."""
        from influence_assets.layouts.factors import curvature_on

        work = next(work for work in self._works if "curvature" in {key.asset for key in work.inputs})
        return curvature_on(self.runner, work.open("eigenbases"), work.open("curvature"))

    @cached_property
    def bases(self) -> "dict[str, Eigenbasis]":
        """The generation's eigenbases, on the layers' devices, taken from the curvature if that is loaded anyway."""
        from influence_assets.layouts.factors import bases_of, bases_on

        if any(key.asset == "curvature" for work in self._works for key in work.inputs):
            return bases_of(self.curvatures)
        work = next(work for work in self._works if "eigenbases" in {key.asset for key in work.inputs})
        return bases_on(self.runner, work.open("eigenbases"))


def compute(works: Sequence[Work]) -> None:
    """Fill the drafts of several assets for one shard, including assets that are inputs of others among them."""
    from influence_assets.capture.one_pass import measure
    from influence_assets.layouts.model import label_sampler

    context = PassContext(works)
    joined: list[Joined] = [
        work.asset.measures.join(work, context) for work in works if work.asset.measures is not None
    ]
    participants = list(dict.fromkeys(each.participant for each in joined))  # some share one
    bases = context.bases if any(participant.needs_bases for participant in participants) else {}
    sampler = label_sampler(works[0].study.curvature)
    measure(context.runner, context.sequences, participants, bases, sampler)
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
    return float(sequences * sizes.shape.passes(backwards) + own)


SHARD_PASS = SharedPass(
    name="one pass over a shard", compute=compute, operations=operations, largest_held_bytes=LARGEST_QUERIES_BYTES
)
