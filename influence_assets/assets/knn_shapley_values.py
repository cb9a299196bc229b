"""The asset `knn_shapley_values`: what each passage is worth to a classifier by nearest neighbours of hidden states."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from influence_assets.assets.method_rows import BYTES_PER_SCORE, FORWARD_PASS, listed, write_scores
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.methods.method import MethodOptions, ScoredMethod
from influence_assets.methods.registry import given_settings, options_of
from influence_assets.storage.artifacts import Artifact

SORTING = 60
"""Operations for each pair of a training token and a query's token, beside those of the distance."""


class Options(MethodOptions):
    """Settings of the method."""

    neighbours: int = Field(
        5, ge=1, le=2**31 - 1, description="K: how many of the nearest training tokens have a vote."
    )


METHOD_OF_ASSET = ScoredMethod(name="knn_shapley", unit="votes", options=Options)


def _compute(work: Work) -> None:
    from influence_assets.layouts.hidden_states import paired_shards, query_ids, query_points, training_points
    from influence_assets.maths.knn_shapley import values_of_parts

    shards = paired_shards(work.open_all("hidden_states"), work.open_all("token_sequences"))
    training, passages = training_points(shards)
    asked = query_points(work.open("query_states"), work.workspace.device)
    values = values_of_parts(training, asked, options_of(work.study, METHOD_OF_ASSET).neighbours)
    # All query sets read the states that one forward pass over the corpus has made.
    passes = FORWARD_PASS * passages["sequence_id"].n_unique() / len(work.workspace.query_sets)
    ids = query_ids(work.open("query_states"))
    write_scores(work, ids, passages, values.cpu().numpy(), sequence_passes=passes)
    work.draft.summarise(training_tokens=len(training), completion_tokens=len(asked), votes=float(values.sum()))


def _cost(sizes: Any, partition: Partition) -> Cost:
    queries, sequences = sizes.queries(str(partition.query_set)), sizes.all_sequences()
    pairs = sequences * sizes.shape.tokens * queries  # of a token of each completion, whose lengths are not counted
    return Cost(pairs * (2 * sizes.shape.width + SORTING), queries * sequences * BYTES_PER_SCORE)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences. Of "
        f"{figures['completion_tokens']:,} tokens that were asked for, the neighbours vote for {figures['votes']:.3g}."
    }


ASSET = AssetDefinition(
    name="knn_shapley_values",
    group="attribution",
    description=(
        "Exact Shapley values of the corpus's tokens for a classifier that predicts each token of a completion by the "
        "K training tokens with the nearest hidden states, summed to documents and sequences, in votes."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="query_set",
    inputs=("hidden_states", "query_states", "token_sequences"),
    code_version="1",
    settings=lambda study: given_settings(study, METHOD_OF_ASSET),
    compute=_compute,
    on_request=True,
    is_requested=listed("knn_shapley"),
    only_by_settings=True,
    method=METHOD_OF_ASSET,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
)
