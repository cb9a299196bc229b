"""Training of several of a study's models at once, on a device that a single small model leaves mostly idle."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from influence_assets.assets.retraining import (
    checkpoint,
    outcomes_under,
    recipe_of,
    tokenized_queries,
    tokenizer_of,
)
from influence_assets.engine.definition import Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.errors import InputError
from influence_assets.storage.artifacts.manifest import Manifest
from influence_assets.study import Training, Tuning
from influence_assets.training_tokens import TrainingTokens

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from influence_assets.models.training_together import TrainedAmongOthers

    Recipes = Sequence[Training | Tuning]
    Save = Callable[[PreTrainedModel, Path], None]

KINDS_OF_DEVICE = frozenset({"cuda"})
"""A processor is busy with one model, so that training them in turn is faster there (docs/log.md)."""

MOST_MODELS = 32
"""A device that trains so many is busy, and more would be lost with a run that is killed."""

SHARE_OF_PROCESS = 1 / 4
"""The share of the available memory of the process that the sequences and weights of all models may take."""

_BYTES_OF_A_TOKEN = 5  # an int32 and a mask
_COPIES_OF_WEIGHTS = 3  # each model, all of them stacked, and the results


class Room(NamedTuple):
    """The room for training at once.

    Args:
        models: how many models can be trained at once; 1 where they are trained in turn.
        bytes: what they take of the device; 0 where they are trained in turn.
    """

    models: int
    bytes: int


def room(versions: Versions) -> Room:
    """Return the room for training at once, of a study whose corpus and model are up to date."""
    import torch

    from influence_assets.capture.available_memory import available_memory
    from influence_assets.capture.batch_size import memory_budget
    from influence_assets.models.training_together import can_be_together, size_of_one

    study, device = versions.workspace.study, torch.device(versions.workspace.device)
    length, limit = study.sequences.length, study.compute.memory_bytes
    if device.type not in KINDS_OF_DEVICE or study.model.trust_remote_code:  # what other code does is not known
        return Room(1, 0)
    try:
        config = _config(versions)
        if not can_be_together(config):
            return Room(1, 0)
        size = size_of_one(config, recipe_of(study, 0).batch_sequences, length)
        in_process = _COPIES_OF_WEIGHTS * size.weights + _BYTES_OF_A_TOKEN * length * _sequences(versions)
    except (InputError, OSError, ValueError, RuntimeError):
        return Room(1, 0)  # it cannot be counted, or training one of them says what is wrong
    available = available_memory() if limit is None else min(limit, available_memory())
    fitting = min(memory_budget(device, limit) // size.training, int(SHARE_OF_PROCESS * available) // in_process)
    models = min(MOST_MODELS, fitting)
    return Room(models, models * size.training) if models > 1 else Room(1, 0)


def _config(versions: Versions) -> "PretrainedConfig":
    """Return the configuration of the models.

    Raises:
        InputError: the checkpoint of a fine-tuned model cannot be used.
        OSError: its configuration cannot be read.
        ValueError: its configuration is of no known model.
    """
    from influence_assets.models.config import read_config
    from influence_assets.models.training import model_config

    study = versions.workspace.study
    if study.model.train is None:
        return read_config(checkpoint(versions.workspace)[0])
    vocabulary = int(_manifest(versions, "language_model", Partition()).summary["vocabulary"])
    return model_config(study.model.train, vocabulary=vocabulary, context=study.sequences.length, end_of_text=0)


def _sequences(versions: Versions) -> int:
    """Return the number of sequences of the corpus."""
    shards = versions.workspace.shards
    return sum(_manifest(versions, "token_sequences", Partition(shard=shard)).rows["sequences"] for shard in shards)


def _manifest(versions: Versions, asset: str, partition: Partition) -> Manifest:
    key = versions.key(versions.workspace.graph[asset], partition)
    if key is None or not versions.holds(key):
        raise InputError(asset, "is not up to date", "Run `influence run` first.")
    return versions.workspace.store.open(key).manifest


def train_parts_at_once(
    works: Sequence[Work], parts: Sequence[TrainingTokens], seeds: Sequence[int], *, keep_weights: bool = False
) -> list[pl.DataFrame]:
    """Train several models at once, each on its part, and return what `train_part` returns of each, but for rounding.

    Args:
        works: the partitions that are computed, all with the same inputs.
        parts: the sequences of each model.
        seeds: the number of each model's seed.
        keep_weights: whether the drafts get the weights too.

    Raises:
        InputError: the models cannot be trained again, nothing is left to train one on, or a query cannot be read.
    """
    recipes = [recipe_of(works[0].study, seed) for seed in seeds]
    asked = tokenized_queries(works[0])  # a question that cannot be read must not be found after hours of training
    models, save = _models(works[0], parts, recipes)
    trained = _trained(works[0], models, parts, recipes)
    outcomes = []
    for work, model, among, part, seed in zip(works, models, trained, parts, seeds, strict=True):
        for name, parameter in model.named_parameters():
            parameter.data.copy_(among.weights[name])
        folder = work.workspace.scratch(work.key) / "model"
        save(model, folder)
        outcomes.append(outcomes_under(work, folder, asked, keep_weights=keep_weights))
        work.draft.summarise(
            seed=seed,
            training_sequences=len(part.tokens),
            training_steps=among.steps,
            final_loss_nats=among.final_loss,
            resumed_from_step=0,
            trained_at_once=len(works),
        )
    return outcomes


def _models(work: Work, parts: "Sequence[TrainingTokens]", recipes: "Recipes") -> "tuple[list[PreTrainedModel], Save]":
    """Return the models before their first step, and what writes one of them into a folder.

    Those that begin from a checkpoint are one and the same.
    """
    from influence_assets.models.fine_tuning import save_beside_code, trainable_checkpoint
    from influence_assets.models.training import new_model, save_model
    from influence_assets.models.training_together import ATTENTION

    models: list[PreTrainedModel]
    if work.study.model.train is None:
        base, _ = checkpoint(work.workspace)
        first = trainable_checkpoint(base, parts, trust_remote_code=work.study.model.trust_remote_code)
        models = [first] * len(parts)
    else:
        tokenizer, context = tokenizer_of(work), parts[0].tokens.shape[1]
        models = [new_model(each, tokenizer, context=context) for each in recipes if isinstance(each, Training)]
    usual = models[0].config._attn_implementation
    for model in models:
        model.set_attn_implementation(ATTENTION)

    def save(model: "PreTrainedModel", folder: "Path") -> None:
        model.set_attn_implementation(usual)
        if work.study.model.train is None:
            save_beside_code(model, base, folder)
        else:
            save_model(model, tokenizer, folder)

    return models, save


def _trained(
    work: Work, models: "Sequence[PreTrainedModel]", parts: "Sequence[TrainingTokens]", recipes: "Recipes"
) -> "list[TrainedAmongOthers]":
    """Return the trained models; if memory does not suffice for all at once, one half after the other is trained."""
    import torch

    from influence_assets.models.training_together import train_together

    try:
        return train_together(models, parts, recipes, device=work.workspace.device, progress=work.progress)
    except torch.OutOfMemoryError:
        if len(models) == 1:
            raise
    half = len(models) // 2
    first = _trained(work, models[:half], parts[:half], recipes[:half])
    return first + _trained(work, models[half:], parts[half:], recipes[half:])
