"""The asset `adam_metric`: inner products of gradients in the metric of the optimiser that trained the model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from influence_assets.assets.checkpoint_scores import pair_cost, pair_memory, pair_settings, write_pair
from influence_assets.assets.followed_training import ADAM_METRIC, query_content
from influence_assets.assets.method_rows import listed
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from influence_assets.capture.batches import Parts, Sequences
    from influence_assets.capture.runner import Runner


def _settings(study: Study) -> Mapping[str, Any]:
    return pair_settings(study, ADAM_METRIC)


def _compute(work: Work) -> None:
    from influence_assets.capture.adam_metric import adam_metric
    from influence_assets.layouts.trajectory import second_moments

    trajectory = work.open("training_trajectory")
    figures = trajectory.manifest.summary
    v, scale = second_moments(trajectory), float(figures["learning_rate_sum"]) / int(figures["training_tokens"])

    def score(
        runner: "Runner", sequences: "Sequences", queries: "Sequences", parts: "Parts"
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        scores, of_parts = adam_metric(runner, sequences, queries, v, scale, parts)
        assert of_parts is not None  # noqa: S101  # there are parts
        return scores, of_parts

    write_pair(work, score, sequence_passes=1)


def _cost(sizes: Any, partition: Partition) -> Cost:
    return pair_cost(sizes, partition, 1)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences in Adam's metric."}


ASSET = AssetDefinition(
    name="adam_metric",
    group="attribution",
    description=(
        "The inner product of each query's gradient with that of each sequence of the shard, and of each document in "
        "it, every weight divided by what Adam divides its steps by at the end of the training. Positive helps."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="pair",
    inputs=("token_sequences", "language_model", "training_trajectory"),
    reads=("query_files",),
    code_version="1",
    settings=_settings,
    source_content=query_content,
    compute=_compute,
    on_request=True,
    is_requested=listed(ADAM_METRIC.name),
    method=ADAM_METRIC,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=pair_memory),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "its query file changed",
)
