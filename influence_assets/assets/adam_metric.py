"""The asset `adam_metric`: inner products of gradients in the metric of the optimiser that trained the model.

The optimiser's state is that of the study's own training, or, of a model that was brought, that of `model.optimizer`.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence_assets.assets.checkpoint_scores import pair_cost, pair_memory, pair_settings, write_pair
from influence_assets.assets.followed_training import ADAM_METRIC, query_content
from influence_assets.assets.method_rows import listed
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from influence_assets.capture.batches import Parts, Sequences
    from influence_assets.capture.runner import Runner

    DivisorOf = Callable[[nn.Module], Callable[[str], Tensor]]
    """Returns, given a model, what the gradient of a parameter is divided by, given its name."""


def _settings(study: Study) -> Mapping[str, Any]:
    return pair_settings(study, ADAM_METRIC)


def _uses(study: Study, name: str) -> bool:
    """Return whether the scores are computed from an input, under a study's settings."""
    if name == "training_trajectory":
        return study.model.optimizer is None
    return name != "optimizer_file" or study.model.optimizer is not None


def _source_content(workspace: Workspace, partition: Partition) -> Mapping[str, Any]:
    content = query_content(workspace, partition)
    return content if workspace.study.model.optimizer is None else {**content, "optimizer": workspace.optimizer_hash}


def _compute(work: Work) -> None:
    from influence_assets.capture.adam_metric import adam_metric

    divisor_of, scale = _of_the_training(work) if work.study.model.optimizer is None else _of_the_file(work)

    def score(
        runner: "Runner", sequences: "Sequences", queries: "Sequences", parts: "Parts"
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        scores, of_parts = adam_metric(runner, sequences, queries, divisor_of(runner.model), scale, parts)
        assert of_parts is not None  # noqa: S101  # there are parts
        _refuse_changed(work)
        return scores, of_parts

    write_pair(work, score, sequence_passes=1)


def _of_the_training(work: Work) -> "tuple[DivisorOf, float]":
    """Return √v̂ + ε at the end of the study's own training, and Σ η / T."""
    from influence_assets.layouts.trajectory import second_moments
    from influence_assets.maths.adamw import AdamW

    trajectory = work.open("training_trajectory")
    figures = trajectory.manifest.summary
    v, scale = second_moments(trajectory), float(figures["learning_rate_sum"]) / int(figures["training_tokens"])
    return lambda _model: lambda name: v[name].sqrt() + AdamW.epsilon, scale


def _of_the_file(work: Work) -> "tuple[DivisorOf, float]":
    """Return (√v̂ + ε) / η of the optimiser's state that the study names, and no scale: its schedule is not known.

    Raises:
        InputError: the model has an adapter.
    """
    from influence_assets.models.optimizer_state import KEY, optimizer_state

    if work.workspace.model_folders.adapter is not None:
        problem = "the state of an optimiser is read for a whole model, and the study's model has an adapter"
        raise InputError(KEY, problem, "Leave the key out, and adam_metric among `methods`.")
    file = Path(str(work.study.model.optimizer))

    @cache
    def divisor_of(model: "nn.Module") -> "Callable[[str], Tensor]":
        state = optimizer_state(file, model)
        return lambda name: state[name].divisor()

    return divisor_of, 1.0


def _refuse_changed(work: Work) -> None:
    """Raise if the optimiser's state that was just read is not what was hashed before."""
    from influence_assets.models.weights import optimizer_hash

    if work.study.model.optimizer is not None:
        file = Path(work.study.model.optimizer)
        if optimizer_hash(file, work.workspace.weights_cache) != work.workspace.optimizer_hash:
            raise InputError(str(file), "changed while it was read", "Wait until it is complete, then run again.")


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
        "it, every weight divided by what Adam divides its steps by at the end of the training: the study's own, or "
        "that of `model.optimizer`. Positive helps."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="pair",
    inputs=("token_sequences", "language_model", "training_trajectory"),
    reads=("query_files", "optimizer_file"),
    uses=_uses,
    code_version="1",
    settings=_settings,
    source_content=_source_content,
    compute=_compute,
    on_request=True,
    is_requested=listed(ADAM_METRIC.name),
    only_by_settings=True,
    method=ADAM_METRIC,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=pair_memory),
    shown=_shown,
    source_change=lambda workspace, _partition, _last: (
        "its query file changed"
        if workspace.study.model.optimizer is None
        else "its query file or the optimiser's state changed"
    ),
)
