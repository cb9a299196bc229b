"""The asset `retrained_models`: the model trained again on random subsets of its corpus, and what it then says.

A partition is one model: a subset and a seed. What is kept of it is the log-probability of every query's completion,
by which scores are judged: they predict how it changes with what a model is trained on.
"""

import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from influence_assets.assets.retraining import (
    OfTrainedShards,
    questions,
    recipe_of,
    train_part,
    training_cost,
    training_memory,
)
from influence_assets.corpus.subsets import drawn_units, part_of
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import DOCUMENT, SEQUENCE, Units, training_tokens
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

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


def _compute(work: Work) -> None:
    recipe_of(work.study, 0)  # refuses a model that cannot be trained again before anything is read
    drawn, (subset, seed) = work.study.evaluation, subset_and_seed(str(work.partition.name))
    shards = work.open_all("token_sequences")
    units = Units.of(drawn.by, shards, work.open_all("documents"))
    is_drawn = drawn_units(len(units.names), drawn.share, seed=drawn.seed, subset=subset)
    part = part_of(training_tokens(shards), units.is_kept(is_drawn))
    outcomes = train_part(work, part, seed, keep_weights=drawn.keep_weights)
    numbers = (pl.lit(number, pl.Int32).alias(name) for name, number in (("subset", subset), ("seed", seed)))
    work.draft.table("outcomes", outcomes.select(*numbers, "query_id", "log_probability_nats"))
    left_out = [name for name, is_in in zip(units.names, is_drawn, strict=True) if not is_in]
    work.draft.table("left_out", pl.DataFrame({"unit": left_out}, schema={"unit": pl.String}))
    work.draft.summarise(subset=subset, units=len(units.names), units_left_out=len(left_out))


def _cost(sizes: Any, _partition: Partition) -> Cost:
    drawn = sizes.study.evaluation
    weights = Cost(bytes=4 * sizes.shape.parameters if drawn.keep_weights else 0)
    return training_cost(sizes, drawn.share) + weights


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
    uses=lambda study, name: name != "documents" or study.evaluation.by not in (SEQUENCE, DOCUMENT),
    code_version="1",
    settings=_settings,
    source_content=questions,
    compute=_compute,
    frozen=OfTrainedShards(),
    on_request=True,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=training_memory, like="language_model"),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "the queries changed",
)
