"""What assets share that train the study's model again: its recipe, its run, and what the trained model says."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, KeyAndInputs, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.layouts.token_settings import query_set_content
from influence_assets.study import LanguageModel, Queries, Study, Training, Tuning
from influence_assets.training_tokens import TrainingTokens

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from influence_assets.capture.batches import Sequences
    from influence_assets.models.training_run import TrainedModel, TrainingProgress

BYTES_OF_AN_OUTCOME = 64

BM25, RANDOM = "bm25", "random"
"""What methods are compared with: the words alone, and chance."""


@dataclass(frozen=True)
class OfTrainedShards:
    """The version rule: the shards that the model was trained on, as they are now; further ones do not matter.

    Args:
        reads: whether a partition, by its name, reads an asset at all.
    """

    reads: Callable[[str | None, str], bool] = lambda _partition, _asset: True

    def key_and_inputs(self, versions: Versions, asset: AssetDefinition, partition: Partition) -> KeyAndInputs | None:
        """Return the partition's key and what it is computed from; None while that is missing."""
        model = versions.key(versions.workspace.graph["language_model"], Partition())
        if model is None or not versions.holds(model):
            return None
        # A model that was brought has no documents; computing says that it cannot be trained again.
        trained = {key.partition for key in versions.workspace.store.open(model).manifest.inputs}
        inputs = []
        for upstream, place in versions.upstream(asset, partition):
            is_trained = place.shard is None or not trained or place.shard in trained
            if not is_trained or not self.reads(partition.name, upstream.name):
                continue
            key = versions.key(upstream, place)
            if key is None or not versions.holds(key):
                return None
            inputs.append(key)
        return versions.key_from(asset, partition, inputs), tuple(inputs)

    def frozen_inputs(self, _asset: AssetDefinition, _study: Study) -> tuple[str, ...]:
        """Return no inputs: a shard that changes makes another corpus."""
        return ()


def questions(workspace: Workspace, _partition: Partition) -> Mapping[str, Any]:
    """Return what enters versions: the query files, how they become tokens, and the checkpoint where training begins.

    What else decides tokens is part of the token sequences' versions.
    """
    content: dict[str, Any] = {
        "questions": {name: workspace.query_hash(file) for name, file in workspace.query_sets.items()}
    }
    study, tuned = workspace.study, workspace.study.model.tuned
    if study.queries.special_tokens != Queries.model_fields["special_tokens"].default:
        content["special_tokens"] = study.queries.special_tokens
    templates = (query_set_content(workspace, name).get("chat_template") for name in workspace.query_sets)
    if template := next(filter(None, templates), None):
        content["chat_template"] = template
    return content if tuned is None else {**content, "tuned": tuned.recipe, "base": _checkpoint_hash(workspace)}


def _checkpoint_hash(workspace: Workspace) -> str | None:
    """Return the hash of the weights that training begins from; None if they cannot be used, as training then says.

    Versions must be known without them, so that documents can be withdrawn when a checkpoint is gone.
    """
    try:
        return checkpoint(workspace)[1]
    except InputError:
        return None


def recipe_of(study: Study, seed: int) -> Training | Tuning:
    """Return the training of a model that is trained again: that of the study's own model, with another seed.

    Raises:
        InputError: the study neither trains its model nor says how it was fine-tuned, or the model is an adapter.
    """
    model = study.model
    if model.tuned is not None and model.adapter is not None:
        raise InputError(
            "model.adapter",
            "names an adapter, which cannot be trained again",
            "Merge it, save the merged model, and name that folder as model.path, or leave out model.tuned.",
        )
    recipe = model.train or model.tuned
    if recipe is None:
        raise InputError(
            "model.path",
            "names a model that the study does not train, so it cannot be trained again",
            "Say in model.tuned what it was fine-tuned from and how, or give model.train, to judge scores by "
            "retraining.",
        )
    return recipe.model_copy(update={"seed": recipe.seed + seed})


def checkpoint(workspace: Workspace) -> "tuple[Path, str]":
    """Return the folder of `model.tuned.base` and the hash of its weights.

    Raises:
        InputError: it is not a model, it is an adapter's, or it is the fine-tuned model itself.
    """
    from influence_assets.models.fine_tuning import BASE
    from influence_assets.models.weights import resolve_model_folder, weights_hash

    tuned, model = workspace.study.model.tuned, workspace.study.model
    assert tuned is not None  # noqa: S101  # callers have checked it
    if workspace.model_folders.adapter is not None:
        problem = "names an adapter, which cannot be trained again"
        raise InputError("model.path", problem, "Merge it and name the merged model, or leave out model.tuned.")
    named = LanguageModel(path=tuned.base, revision=tuned.revision, trust_remote_code=model.trust_remote_code)
    try:
        folder = resolve_model_folder(named, workspace.store.root / ".cache" / "checkpoint.json")
    except InputError as error:
        raise InputError(BASE, error.problem, error.remedy) from error
    content = weights_hash(folder, workspace.weights_cache)
    if content == workspace.model_file_hashes[0]:
        problem = "has the weights of the model in model.path, which learnt nothing since"
        raise InputError(BASE, problem, "Name the checkpoint that the model was fine-tuned from.")
    return folder, content


def train_part(work: Work, part: TrainingTokens, seed: int, *, keep_weights: bool = False) -> pl.DataFrame:
    """Train the model as `trained_outcomes` does, and give the draft the figures of the training.

    Args:
        work: the partition that is computed.
        part: the sequences.
        seed: the number of the model's seed.
        keep_weights: whether the draft gets the weights too.

    Returns:
        Columns `query_id` and `log_probability_nats`.

    Raises:
        InputError: the model cannot be trained again, nothing is left to train it on, or a query cannot be read.
    """
    outcomes, trained = trained_outcomes(work, part, seed, keep_weights=keep_weights)
    work.draft.summarise(
        seed=seed,
        training_sequences=len(part.tokens),
        training_steps=trained.steps,
        final_loss_nats=trained.final_loss,
        resumed_from_step=trained.resumed_from_step,
    )
    return outcomes


def trained_outcomes(
    work: Work, part: TrainingTokens, seed: int, *, keep_weights: bool = False
) -> "tuple[pl.DataFrame, TrainedModel]":
    """Train the model again on a part of its sequences, and return the log-probability of every query under it.

    The epochs stay, so that the schedule is as much shorter as there are fewer batches. A killed training goes on.

    Args:
        work: the partition that is computed.
        part: the sequences.
        seed: the number of the model's seed.
        keep_weights: whether the draft gets the weights.

    Returns:
        Columns `query_id` and `log_probability_nats`; and the figures of the training.

    Raises:
        InputError: the model cannot be trained again, nothing is left to train it on, or a query cannot be read.
    """
    recipe = recipe_of(work.study, seed)
    asked = tokenized_queries(work)  # a question that cannot be read must not be found after hours of training
    trained = _trained(work, part, recipe, work.workspace.scratch(work.key))
    return outcomes_under(work, trained.folder, asked, keep_weights=keep_weights), trained


def untrained_outcomes(work: Work, seed: int, *, context: int) -> pl.DataFrame:
    """Return the log-probability of every query under the model before training, or under its checkpoint.

    Args:
        work: the partition that is computed.
        seed: the number of the model's seed.
        context: the most tokens of a sequence.

    Returns:
        Columns `query_id` and `log_probability_nats`.
    """
    recipe, asked = recipe_of(work.study, seed), tokenized_queries(work)
    workspace = work.workspace.scratch(work.key)
    workspace.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe, Tuning):
        return outcomes_under(work, checkpoint(work.workspace)[0], asked, keep_weights=False)
    from influence_assets.models.training import new_model, save_model

    tokenizer, folder = tokenizer_of(work), workspace / "model"
    save_model(new_model(recipe, tokenizer, context=context), tokenizer, folder)
    return outcomes_under(work, folder, asked, keep_weights=False)


def outcomes_under(
    work: Work, folder: "Path", asked: "list[tuple[pl.Series, Sequences]]", *, keep_weights: bool
) -> pl.DataFrame:
    """Return the log-probability of every query under a trained model, and remove what its training needed.

    Args:
        work: the partition that is computed.
        folder: the model, in the work's scratch folder.
        asked: the queries, as `tokenized_queries` returns them.
        keep_weights: whether the draft gets the weights.

    Returns:
        Columns `query_id` and `log_probability_nats`.
    """
    from influence_assets.capture.likelihoods import log_probabilities
    from influence_assets.models.loading import load_model

    model = load_model(
        folder,
        dtype=work.study.model.dtype,
        device=work.workspace.device,
        trust_remote_code=work.study.model.trust_remote_code,
    )
    likelihoods = [log_probabilities(model, sequences) for _, sequences in asked]
    if keep_weights:
        shutil.copytree(folder, work.draft.folder("model"), dirs_exist_ok=True)
    shutil.rmtree(work.workspace.scratch(work.key))
    ids = pl.concat(ids for ids, _ in asked)
    return pl.DataFrame({"query_id": ids, "log_probability_nats": np.concatenate(likelihoods)})


def _trained(work: Work, part: TrainingTokens, recipe: Training | Tuning, workspace: "Path") -> "TrainedModel":
    """Return the model, trained from scratch, or from its checkpoint if it was fine-tuned."""

    def progress(state: "TrainingProgress") -> None:
        work.progress(state.step, state.steps)

    if isinstance(recipe, Tuning):
        from influence_assets.models.fine_tuning import fine_tune

        return fine_tune(
            *checkpoint(work.workspace), part, recipe, device=work.workspace.device,
            workspace=workspace, progress=progress, trust_remote_code=work.study.model.trust_remote_code,
        )  # fmt: skip
    from influence_assets.models.training import train_language_model

    return train_language_model(
        part.tokens, part.lengths, recipe,
        tokenizer=tokenizer_of(work), workspace=workspace, progress=progress, loss_mask=part.loss,
    )  # fmt: skip


def tokenizer_of(work: Work) -> "Tokenizer":
    """Return the tokenizer of a model that the study trains."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(work.open("language_model").path("tokenizer") / "tokenizer.json"))


def tokenized_queries(work: Work) -> "list[tuple[pl.Series, Sequences]]":
    """Return the ids and tokens of all queries, query set by query set.

    Raises:
        InputError: a query cannot be read, or is too long for the model.
    """
    from influence_assets.layouts import queries

    language_model, asked = work.open("language_model"), []
    for file in work.workspace.query_sets.values():
        rows, tokenized = queries.read_tokenized(language_model, work.workspace, file)
        asked.append((rows["query_id"], queries.as_sequences(tokenized)))
    return asked


def training_cost(sizes: Any, share: float) -> Cost:
    """Return the cost of a training on a share of the sequences, with the outcomes of all queries."""
    training, shape = sizes.study.model.train or sizes.study.model.tuned, sizes.shape
    if training is None:
        return Cost(bytes=None, amount=1)
    operations = training.epochs * share * sizes.all_sequences() * shape.training_step()
    return Cost(operations, sum(map(sizes.queries, sizes.query_tokens)) * BYTES_OF_AN_OUTCOME)


def training_memory(sizes: Any) -> int:
    """Return the largest memory of a training: a gradient and two moments of Adam for each weight, beside the pass.

    All of them are in float32, whatever the precision of other passes.
    """
    held = max(3 * sizes.weight_bytes, 16 * sizes.shape.parameters - sizes.weight_bytes)
    return int(sizes.pass_memory(held))
