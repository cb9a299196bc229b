"""The asset `in_run_shapley`: what each passage added to what the model says, step by step of a training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from influence_assets.assets.followed_training import (
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

PASSES = {"adamw": (3, 0.5), "sgd": (1, 1.0)}
"""Passes of every step, and for each query: products with the tokens' gradients, and with SGD a Hessian product."""


class InRunShapley(MethodOptions):
    """The options of `in_run_shapley`.

    Attributes:
        queries: how many queries of each query set are asked about, the first ones, or the ids of those that are.
        optimizer: `adamw` follows the training of the study's model, to the first order; `sgd` makes a training of
            plain SGD with the same batches, whose values are of second order, and which ends in another model.
        learning_rate: the peak of SGD's schedule; None: that of the study.
    """

    queries: Annotated[int, Field(ge=1)] | tuple[str, ...] = Field(16, union_mode="left_to_right")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _only_sgd_has_another_schedule(self) -> Self:
        if self.learning_rate is not None and self.optimizer != "sgd":
            raise ValueError("`learning_rate` is that of `optimizer: sgd`; leave it out, or choose that")
        return self


METHOD = ScoredMethod(
    name="in_run_shapley", unit="in_run_nats", check=follows_training("in_run_shapley"), options=InRunShapley
)


def _settings(study: Study) -> Mapping[str, Any]:
    return {**given_settings(study, METHOD), **token_settings(study, study.queries)}


def _compute(work: Work) -> None:
    from influence_assets.models.in_run_shapley import adamw_values, sgd_values

    recipe = recipe_of(work.study, METHOD.name)
    options: InRunShapley = options_of(work.study, METHOD)
    queries = asked(work, options.queries, "method_options.in_run_shapley.queries")

    def values() -> "ByToken":
        is_sgd = options.optimizer == "sgd"
        run, losses = run_of(work, METHOD.name, options.learning_rate if is_sgd else None)
        work.draft.summarise(steps=run.steps)
        tokens = queries.tokens, queries.labels
        if is_sgd:
            return sgd_values(run, losses, tokens, work.progress)
        return adamw_values(run, losses, tokens, work.workspace.scratch(work.key), work.progress)

    def passes(sequences: int) -> float:
        of_step, of_query = PASSES[options.optimizer]
        return recipe.epochs * sequences * (of_step + of_query * len(queries.ids))

    write_by_token(work, queries, values, passes=passes, ends_as_the_model=options.optimizer == "adamw")


def _cost(sizes: Any, partition: Partition) -> Cost:
    options: InRunShapley = options_of(sizes.study, METHOD)
    of_step, of_query = PASSES[options.optimizer]
    queries = asked_queries(sizes, str(partition.query_set), options.queries)
    return Cost(training_cost(sizes, 1.0).operations * (of_step + of_query * queries), None)


def _memory(sizes: Any) -> int:
    return replay_memory(sizes, options_of(sizes.study, METHOD).queries, copies=2)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"What {figures['sequences']:,} sequences added to {figures['queries']:,} questions in "
        f"{figures.get('steps', 0):,} steps of training."
    }


ASSET = AssetDefinition(
    name="in_run_shapley",
    group="attribution",
    description=(
        "What each sequence, and each document in it, added to a few queries' log-probabilities in the steps whose "
        "batches it was in: the Shapley value of each step's expansion, summed over the training. Positive: it raised "
        "the log-probability."
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
