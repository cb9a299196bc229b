"""What assets share that follow the training of the study's model: its run, queries as it reads them, and rows."""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from influence_assets.assets.method_rows import write_scores
from influence_assets.assets.retraining import tokenizer_of, training_memory
from influence_assets.engine.definition import Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.layouts.retraining import DOCUMENT, Units, training_tokens
from influence_assets.layouts.token_settings import query_set_content
from influence_assets.methods.method import MethodOptions, ScoredMethod
from influence_assets.study import Study, Training

if TYPE_CHECKING:
    from torch import Tensor

    from influence_assets.models.metagradients import ByToken
    from influence_assets.models.token_losses import TokenLosses
    from influence_assets.models.training_run import TrainingRun

_COPIES_IN_A_STATE = 3  # the weights and two moments

_REPLAYED = pl.Schema({"query_id": pl.String, "log_probability_nats": pl.Float64})


class TracIn(MethodOptions):
    """The options of `tracin`.

    Attributes:
        checkpoints: the checkpoints of the training that scores are summed over.
    """

    checkpoints: int = Field(5, ge=1)


def follows_training(method: str) -> "Callable[[Study], object]":
    """Return what raises an InputError if a study does not train its model, as `ScoredMethod.check` does."""
    return lambda study: recipe_of(study, method)


def _knows_an_optimizer(study: Study) -> None:
    """Raise an InputError if `adam_metric` has neither a training to follow nor an optimiser's state."""
    if study.model.optimizer is None and study.model.train is None:
        raise InputError(
            "methods",
            "lists adam_metric, which follows the model's training, and the study does not train its model",
            "Name the state of the optimiser that trained it as model.optimizer, give model.train instead of "
            "model.path, or leave the method out.",
        )


TRACIN = ScoredMethod(name="tracin", unit="sgd_nats", options=TracIn, check=follows_training("tracin"))
ADAM_METRIC = ScoredMethod(name="adam_metric", unit=None, check=_knows_an_optimizer)


def trajectory_methods(study: Study) -> list[str]:
    """Return the study's methods that read what its training passes through.

    `adam_metric` reads the optimiser's state of a model that was brought instead, if the study names it.
    """
    reading = {TRACIN.name} if study.model.optimizer is not None else {TRACIN.name, ADAM_METRIC.name}
    return [name for name in study.methods if name in reading]


Queries = Annotated[int, Field(ge=1)] | tuple[str, ...]
"""As an option: how many of the first queries of each set, or the ids of the queries, that are asked about."""


def recipe_of(study: Study, method: str) -> Training:
    """Return how the study trains its model.

    Raises:
        InputError: it does not train it.
    """
    if study.model.train is None:
        raise InputError(
            "methods",
            f"lists {method}, which follows the model's training, and the study does not train its model",
            "Give model.train instead of model.path, or leave the method out.",
        )
    return study.model.train


def run_of(work: Work, method: str, learning_rate: float | None = None) -> "tuple[TrainingRun, TokenLosses]":
    """Return the training of the study's model at its beginning, on the shards that it was trained on as they are now.

    Args:
        work: the work of an asset with the inputs `language_model` and `token_sequences`.
        method: what needs it.
        learning_rate: the peak of the schedule; None: that of the study.

    Raises:
        InputError: the study does not train its model.
    """
    from influence_assets.models.token_losses import token_losses
    from influence_assets.models.training import new_run

    recipe = recipe_of(work.study, method)
    if learning_rate is not None:
        recipe = recipe.model_copy(update={"learning_rate": learning_rate})
    model, run = new_run(training_tokens(work.open_all("token_sequences")), recipe, tokenizer_of(work))
    return run, token_losses(model)


def difference(work: Work, weights: "Mapping[str, Tensor]") -> float:
    """Return the largest difference of any weight of a replayed training from the model's own; 0 if all bits agree."""
    from safetensors.torch import load_file

    stored = load_file(work.open("language_model").path("model") / "model.safetensors")
    return max(float((stored[name] - weight.cpu()).abs().max()) for name, weight in weights.items())


def compared(work: Work, weights: "Mapping[str, Tensor]") -> dict[str, Any]:
    """Return what a summary says about whether a replayed training ends with the model's own weights."""
    largest = difference(work, weights)
    figures: dict[str, Any] = {"equal_to_the_bit": largest == 0, "largest_difference": largest}
    if largest == 0:
        return figures
    note = (
        f"The training, run again, does not end with the model's weights: the largest difference is {largest:.2g}. "
        "Documents were changed or withdrawn since, or this machine computes otherwise. What follows the training is "
        "about the run that was made now."
    )
    return {**figures, "notes": [note]}


class Asked(NamedTuple):
    """Queries as the model reads them.

    Args:
        ids: their ids.
        tokens: int64 [query, token].
        labels: int64 [query, token], IGNORED where a token is not of the completion.
        notes: sentences for people.
    """

    ids: list[str]
    tokens: "Tensor"
    labels: "Tensor"
    notes: Sequence[str] = ()


def asked(work: Work, chosen: Queries, key: str) -> Asked:
    """Return the queries of the work's set that are asked about.

    Args:
        work: the work of a query set, with the input `language_model`.
        chosen: which.
        key: the option that says so.

    Raises:
        InputError: a query cannot be read.
    """
    import torch

    from influence_assets.layouts import queries
    from influence_assets.models.training_run import IGNORED

    file = work.workspace.query_file(str(work.partition.query_set))
    rows, tokenized = queries.read_tokenized(work.open("language_model"), work.workspace, file)
    ids, notes = rows["query_id"].to_list(), _notes_of_unknown(work.workspace, chosen, key)
    if isinstance(chosen, int):
        numbers = list(range(min(chosen, len(ids))))
    else:
        numbers = [number for number, query_id in enumerate(ids) if query_id in chosen]
    if not numbers:
        nothing = torch.zeros(0, 2, dtype=torch.int64)
        return Asked([], nothing, nothing, notes)
    sequences = queries.as_sequences([tokenized[number] for number in numbers])
    tokens = torch.from_numpy(sequences.tokens.astype(np.int64))
    places = np.arange(tokens.shape[1])
    starts = np.array([tokenized[number].completion_start for number in numbers])
    is_asked = (places >= starts[:, None]) & (places < sequences.lengths[:, None])
    labels = tokens.masked_fill(~torch.from_numpy(is_asked), IGNORED)
    return Asked([ids[number] for number in numbers], tokens, labels, notes)


def _notes_of_unknown(workspace: Workspace, chosen: Queries, key: str) -> list[str]:
    """Return a sentence about queries that are named and in no query file: one may be gone since."""
    from influence_assets.corpus.queries import read_query_set

    if isinstance(chosen, int):
        return []
    known = {name for file in workspace.query_sets.values() for name in read_query_set(file)["query_id"]}
    unknown = [name for name in chosen if name not in known]
    return [f"{key} names queries that no file has, which are left out: {', '.join(unknown)}."] if unknown else []


def query_content(workspace: Workspace, partition: Partition) -> Mapping[str, Any]:
    """Return what enters versions of what reads a query file's text: its content and the chat template."""
    return query_set_content(workspace, str(partition.query_set))


def asked_queries(sizes: Any, query_set: str, chosen: Queries) -> int:
    """Return how many queries of a set are asked about, at most."""
    of_set: int = sizes.queries(query_set)
    return min(chosen if isinstance(chosen, int) else len(chosen), of_set)


def replay_memory(sizes: Any, chosen: Queries, copies: int) -> int:
    """Return the largest memory of a replay: a segment's states, what is carried of each query, and its values.

    Args:
        sizes: the study's sizes, a `study_sizes.StudySizes`.
        chosen: the queries.
        copies: the copies of the weights that are carried of a query.
    """
    training, sequences = sizes.study.model.train, sizes.all_sequences()
    if training is None:  # computing says that there is nothing to replay
        return training_memory(sizes)
    steps = training.epochs * -(-sequences // training.batch_sequences)
    queries = max((asked_queries(sizes, name, chosen) for name in sizes.query_tokens), default=0)
    weights = _COPIES_IN_A_STATE * (math.isqrt(steps) + 2) + copies * queries
    values = 2 * queries * sequences * sizes.study.sequences.length  # and their sums
    return int(training_memory(sizes) + 4 * weights * sizes.shape.parameters + 8 * values)


def write_by_token(
    work: Work,
    queries: Asked,
    values: Callable[[], "ByToken"],
    *,
    passes: Callable[[int], float],
    ends_as_the_model: bool = True,
) -> None:
    """Write the scores of documents' parts of sequences, the sums of the values of their tokens, and free the replay.

    Args:
        work: the work of a method with the inputs `language_model` and `token_sequences`.
        queries: the queries; if there are none, nothing is computed.
        values: computes the values.
        passes: returns the passes that they take, as in `write_scores`, given the number of sequences.
        ends_as_the_model: whether the replayed run is the one that the model comes from.
    """
    shards = work.open_all("token_sequences")
    spans = Units.of(DOCUMENT, shards, []).spans
    row, start, end = (spans[name].to_numpy().astype(np.int64) for name in ("row", "token_start", "token_end"))
    scores, log_probabilities, notes = np.zeros((0, len(spans))), list[float](), list(queries.notes)
    if queries.ids:
        found = values()
        until: NDArray[np.float64] = np.pad(found.values.cumsum(2), ((0, 0), (0, 0), (1, 0)))
        scores, log_probabilities = until[:, row, end] - until[:, row, start], found.log_probabilities.tolist()
        if ends_as_the_model:
            figures = compared(work, found.weights)
            notes += figures.pop("notes", [])
            work.draft.summarise(**figures)
    if notes:
        work.draft.summarise(notes=notes)
    sequences = int(row.max(initial=-1)) + 1
    passages = spans.select("sequence_id", "document_id")
    write_scores(work, queries.ids, passages, scores, sequence_passes=passes(sequences) if queries.ids else 0.0)
    replayed = pl.DataFrame({"query_id": queries.ids, "log_probability_nats": log_probabilities}, schema=_REPLAYED)
    work.draft.table("replayed_queries", replayed)
    shutil.rmtree(work.workspace.scratch(work.key), ignore_errors=True)
