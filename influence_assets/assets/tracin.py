"""The asset `tracin`: inner products of gradients, summed over checkpoints of the model's training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from influence_assets.assets.checkpoint_scores import pair_cost, pair_memory, pair_settings, write_pair
from influence_assets.assets.followed_training import TRACIN, query_content
from influence_assets.assets.method_rows import listed
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.methods.registry import options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from influence_assets.capture.batches import Parts, Sequences
    from influence_assets.capture.runner import Runner


def _settings(study: Study) -> Mapping[str, Any]:
    return pair_settings(study, TRACIN)


def _compute(work: Work) -> None:
    from influence_assets.capture.tracin import tracin
    from influence_assets.layouts.trajectory import stored_checkpoints

    trajectory = work.open("training_trajectory")
    tokens = int(trajectory.manifest.summary["training_tokens"])

    def score(
        runner: "Runner", sequences: "Sequences", queries: "Sequences", parts: "Parts"
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        checkpoints = stored_checkpoints(trajectory, runner.model)
        scores, of_parts = tracin(runner, sequences, queries, checkpoints, tokens, parts)
        assert of_parts is not None  # noqa: S101  # there are parts
        return scores, of_parts

    checkpoints = trajectory.manifest.rows["checkpoints"]
    work.draft.summarise(checkpoints=checkpoints)
    write_pair(work, score, sequence_passes=checkpoints)


def _cost(sizes: Any, partition: Partition) -> Cost:
    return pair_cost(sizes, partition, options_of(sizes.study, TRACIN).checkpoints)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences, summed over "
        f"{figures['checkpoints']:,} checkpoints of the training."
    }


ASSET = AssetDefinition(
    name="tracin",
    group="attribution",
    description=(
        "The inner product of each query's gradient with that of each sequence of the shard, and of each document in "
        "it, summed over checkpoints of the training with their learning rates. It is what the sequence would have "
        "added, to the first order, if the training were plain SGD with the same learning rates. Positive helps."
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
    is_requested=listed(TRACIN.name),
    only_by_settings=True,
    method=TRACIN,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=pair_memory),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "its query file changed",
)
