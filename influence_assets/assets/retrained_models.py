"""The asset `retrained_models`: the model trained again on random subsets of its corpus, and what it then says.

A partition is one model: a subset and a seed. What is kept of it is the log-probability of every query's completion,
by which scores are judged: they predict how it changes with what a model is trained on.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from influence_assets.assets.bank import DATAMODELS
from influence_assets.assets.method_rows import listed
from influence_assets.assets.retraining import (
    OfTrainedShards,
    questions,
    recipe_of,
    train_part,
    training_cost,
    training_memory,
)
from influence_assets.assets.retraining_at_once import room, train_parts_at_once
from influence_assets.corpus.subsets import drawn_units, part_of
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, AtOnce, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import Units, reads_documents, training_tokens
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Evaluation, Study
from influence_assets.training_tokens import TrainingTokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PARTITION = re.compile(r"subset-(\d+)\.seed-(\d+)")


def subset_and_seed(partition: str) -> tuple[int, int]:
    """Return the numbers of subset and seed in a partition key.

    Raises:
        InputError: it is not the key of a retrained model.
    """
    match = _PARTITION.fullmatch(partition)
    if match is None:
        raise InputError(partition, "is not a retrained model", "Name a partition such as subset-0007.seed-1.")
    return int(match[1]), int(match[2])


def _settings(study: Study) -> Mapping[str, Any]:
    drawn = study.evaluation
    weights = {"keep_weights": True} if drawn.keep_weights else {}
    return {"share": drawn.share, "by": drawn.by, "draw_seed": drawn.seed, **weights}


class _Corpus(NamedTuple):
    """What the model was trained on, and the units that subsets are drawn from."""

    tokens: TrainingTokens
    units: Units
    settings: Evaluation

    @classmethod
    def of(cls, work: Work) -> "_Corpus":
        shards, settings = work.open_all("token_sequences"), work.study.evaluation
        return cls(training_tokens(shards), Units.of(settings.by, shards, work.open_all("documents")), settings)

    def is_drawn(self, subset: int) -> "NDArray[np.bool_]":
        """Return which units are in a subset, bool [unit]."""
        return drawn_units(len(self.units.names), self.settings.share, seed=self.settings.seed, subset=subset)

    def part(self, subset: int) -> TrainingTokens:
        return part_of(self.tokens, self.units.is_kept(self.is_drawn(subset)))

    def write(self, work: Work, outcomes: pl.DataFrame) -> None:
        """Write what a model says, and what it was not trained on."""
        subset, seed = subset_and_seed(str(work.partition.name))
        numbers = (pl.lit(number, pl.Int32).alias(name) for name, number in (("subset", subset), ("seed", seed)))
        work.draft.table("outcomes", outcomes.select(*numbers, "query_id", "log_probability_nats"))
        units = zip(self.units.names, self.is_drawn(subset), strict=True)
        left_out = [name for name, is_in in units if not is_in]
        work.draft.table("left_out", pl.DataFrame({"unit": left_out}, schema={"unit": pl.String}))
        work.draft.summarise(subset=subset, units=len(self.units.names), units_left_out=len(left_out))


def _compute(work: Work) -> None:
    recipe_of(work.study, 0)  # refuses a model that cannot be trained again before anything is read
    corpus, (subset, seed) = _Corpus.of(work), subset_and_seed(str(work.partition.name))
    corpus.write(work, train_part(work, corpus.part(subset), seed, keep_weights=corpus.settings.keep_weights))


def _compute_at_once(works: Sequence[Work]) -> None:
    recipe_of(works[0].study, 0)  # as above
    corpus = _Corpus.of(works[0])
    subsets, seeds = zip(*(subset_and_seed(str(work.partition.name)) for work in works), strict=True)
    parts = [corpus.part(subset) for subset in subsets]
    outcomes = train_parts_at_once(works, parts, seeds, keep_weights=corpus.settings.keep_weights)
    for work, of_model in zip(works, outcomes, strict=True):
        corpus.write(work, of_model)


def _cost(sizes: Any, _partition: Partition) -> Cost:
    drawn = sizes.study.evaluation
    weights = Cost(bytes=4 * sizes.shape.parameters if drawn.keep_weights else 0)
    return training_cost(sizes, drawn.share) + weights


def _memory(sizes: Any) -> int:
    return max(training_memory(sizes), room(sizes.versions).bytes)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"Trained on {figures['training_sequences']:,} sequences, without {figures['units_left_out']:,} of "
        f"{figures['units']:,} units, to a loss of {figures['final_loss_nats']:.3g} nats a token."
    }


ASSET = AssetDefinition(
    name="retrained_models",
    group="evaluation",
    description=(
        "Models trained again on random subsets of the corpus, each partition with one subset and one seed. What is "
        "kept is the log-probability of every query, by which scores are judged, and the weights if the study says so. "
        "Computed on request."
    ),
    kinds=frozenset({"torch"}),
    partitioned_by="listed",
    listed=lambda study: study.evaluation.retrainings(),
    inputs=("documents", "language_model", "token_sequences"),
    reads=("questions",),
    uses=lambda study, name: name != "documents" or reads_documents(study.evaluation.by),
    code_version="1",
    settings=_settings,
    source_content=questions,
    compute=_compute,
    at_once=AtOnce(most=lambda versions: room(versions).models, compute=_compute_at_once),
    frozen=OfTrainedShards(),
    on_request=True,
    is_requested=listed(DATAMODELS),
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory, like="language_model"),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "the queries changed",
)
