"""The asset `metagradient`: the derivative of what the model says by the weight of each passage in its training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from influence_assets.assets.followed_training import (
    Queries,
    asked,
    asked_queries,
    follows_training,
    query_content,
    recipe_of,
    replay_memory,
    run_of,
    write_by_token,
)
from influence_assets.assets.method_rows import listed
from influence_assets.assets.retraining import OfTrainedShards, training_cost
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.layouts.token_settings import token_settings
from influence_assets.methods.method import MethodOptions, ScoredMethod
from influence_assets.methods.registry import given_settings, options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.models.metagradients import ByToken

REPLAYS = 3
"""Passes of every step beside those of queries: the run, its replay, and the gradient that is differentiated."""

PASSES_OF_A_QUERY = 2
"""Passes that differentiating a step's gradient takes for each query."""


class Metagradient(MethodOptions):
    """The options of `metagradient`.

    Attributes:
        queries: how many queries of each query set are asked about, the first ones, or the ids of those that are.
    """

    queries: Annotated[int, Field(ge=1)] | tuple[str, ...] = Field(4, union_mode="left_to_right")


METHOD = ScoredMethod(
    name="metagradient", unit="nats_per_weight", check=follows_training("metagradient"), options=Metagradient
)


def _settings(study: Study) -> Mapping[str, Any]:
    return {**given_settings(study, METHOD), **token_settings(study, study.queries)}


def _compute(work: Work) -> None:
    from influence_assets.models.metagradients import metagradients

    recipe = recipe_of(work.study, METHOD.name)
    chosen: Queries = options_of(work.study, METHOD).queries
    queries = asked(work, chosen, "method_options.metagradient.queries")

    def values() -> "ByToken":
        run, losses = run_of(work, METHOD.name)
        work.draft.summarise(steps=run.steps)
        folder = work.workspace.scratch(work.key)
        return metagradients(run, losses, (queries.tokens, queries.labels), folder, work.progress)

    def passes(sequences: int) -> float:
        return float(recipe.epochs * sequences * (REPLAYS + PASSES_OF_A_QUERY * len(queries.ids)))

    write_by_token(work, queries, values, passes=passes)


def _cost(sizes: Any, partition: Partition) -> Cost:
    queries = asked_queries(sizes, str(partition.query_set), options_of(sizes.study, METHOD).queries)
    return Cost(training_cost(sizes, 1.0).operations * (REPLAYS + PASSES_OF_A_QUERY * queries), None)


def _memory(sizes: Any) -> int:
    return replay_memory(sizes, options_of(sizes.study, METHOD).queries, copies=3)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"{figures['queries']:,} questions, differentiated through {figures.get('steps', 0):,} steps of "
        f"training by the weight of each of {figures['sequences']:,} sequences."
    }


ASSET = AssetDefinition(
    name="metagradient",
    group="attribution",
    description=(
        "The exact derivative of a few queries' log-probabilities by how much the loss of each sequence, and of each "
        "document in it, weighs in training, by going through the training backwards. Positive: more weight "
        "raises the log-probability."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="query_set",
    inputs=("language_model", "token_sequences"),
    reads=("query_files",),
    code_version="1",
    settings=_settings,
    source_content=query_content,
    compute=_compute,
    frozen=OfTrainedShards(),
    on_request=True,
    is_requested=listed(METHOD.name),
    only_by_settings=True,
    method=METHOD,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory, like="language_model"),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "its query file changed",
)
