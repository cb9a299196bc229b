"""The asset `training_trajectory`: the training of the study's model again, and what it passes through.

It is as old as the model: it stays what it is when the corpus changes later, as the model does.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from influence_assets.assets.followed_training import TRACIN, compared, run_of, trajectory_methods
from influence_assets.assets.retraining import OfTrainedShards, training_cost, training_memory
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, KeyAndInputs, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.engine.versions import Versions
from influence_assets.methods.registry import given_settings, options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study


@dataclass(frozen=True)
class OfTheModel:
    """The version rule: the model and the settings alone; what is stored stays when the corpus changes later."""

    def key_and_inputs(self, versions: Versions, asset: AssetDefinition, partition: Partition) -> KeyAndInputs | None:
        """Return the partition's key, and what it was computed from, or would be computed from now."""
        model = versions.key(versions.workspace.graph["language_model"], Partition())
        if model is None or not versions.holds(model):
            return None
        key = versions.key_from(asset, partition, [model])
        manifest = versions.workspace.store.manifest(key)
        if manifest is not None and versions.holds(key):
            return key, manifest.inputs
        now = OfTrainedShards().key_and_inputs(versions, asset, partition)
        return None if now is None else (key, now[1])

    def frozen_inputs(self, _asset: AssetDefinition, _study: Study) -> tuple[str, ...]:
        """Return the sequences, which may change later."""
        return ("token_sequences",)


def _settings(study: Study) -> Mapping[str, Any]:
    options: dict[str, Any] = given_settings(study, TRACIN).get("options", {})
    return options


def _compute(work: Work) -> None:
    from influence_assets.layouts.trajectory import write_trajectory
    from influence_assets.models.training_run import IGNORED
    from influence_assets.models.trajectory import checkpoints, learning_rates, record

    methods = trajectory_methods(work.study)
    run, _ = run_of(work, ", ".join(methods))
    rates = learning_rates(run)
    chosen = checkpoints(rates, options_of(work.study, TRACIN).checkpoints)
    scratch = work.workspace.scratch(work.key)
    recorded = record(run, [each.step for each in chosen], scratch, work.progress)
    write_trajectory(work.draft, chosen, rates, recorded)
    tokens = int((run.labels[:, 1:] != IGNORED).sum())
    work.draft.summarise(
        steps=run.steps,
        training_tokens=tokens,
        learning_rate_sum=sum(rates),
        **compared(work, recorded.last),
    )
    shutil.rmtree(scratch)


def _cost(sizes: Any, _partition: Partition) -> Cost:
    kept = 1 + options_of(sizes.study, TRACIN).checkpoints
    return training_cost(sizes, 1.0) + Cost(bytes=4 * kept * sizes.shape.parameters)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    end = "ends with the model's weights to the bit"
    if not figures["equal_to_the_bit"]:
        end = f"ends at most {figures['largest_difference']:.2g} from the model's weights"
    return {
        "in_short": f"The training of {figures['steps']:,} steps, run again, {end}.",
        "checkpoints": Table(artifact.table("checkpoints").collect()),
    }


ASSET = AssetDefinition(
    name="training_trajectory",
    group="model",
    description=(
        "The training of the study's model, run again with the same sequences, order and seed: weights at a few "
        "checkpoints, Adam's second moments at the end, and the learning rate of every step. For methods that follow "
        "the training. On request, by listing one in `methods`."
    ),
    kinds=frozenset({"torch", "huggingface"}),
    inputs=("language_model", "token_sequences"),
    code_version="1",
    settings=_settings,
    compute=_compute,
    frozen=OfTheModel(),
    on_request=True,
    is_requested=lambda study: bool(trajectory_methods(study)),
    only_by_settings=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=training_memory, like="language_model"),
    shown=_shown,
)
