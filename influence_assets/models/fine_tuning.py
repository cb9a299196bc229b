"""Training of a causal language model from a checkpoint, all of its weights in float32."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from influence_assets.errors import InputError
from influence_assets.models.dimensions import context_length, embedding_rows
from influence_assets.models.loading import load_checkpoint
from influence_assets.models.quiet import quiet
from influence_assets.models.training_run import (
    IGNORED,
    TrainedModel,
    TrainingProgress,
    TrainingRun,
    refuse_nothing,
)
from influence_assets.study import Tuning
from influence_assets.training_tokens import TrainingTokens

BASE = "model.tuned.base"


def fine_tune(  # noqa: PLR0913  # keywords
    base: Path,
    base_hash: str,
    part: TrainingTokens,
    tuning: Tuning,
    *,
    device: str,
    workspace: Path,
    progress: Callable[[TrainingProgress], None],
    trust_remote_code: bool = False,
) -> TrainedModel:
    """Train the model in a folder on the sequences, or continue where an interrupted call stopped.

    Dropout is that of the model's config.json. On the CPU, an interrupted run ends with exactly the weights of an
    uninterrupted one, to the bit (with the same number of threads).

    Args:
        base: the folder of the checkpoint.
        base_hash: the hash of its weights; a state that began from others is not resumed.
        part: the sequences.
        tuning: the schedule and the seed.
        device: the device to train on.
        workspace: a folder for this run only, for its state and, at the end, the model without a tokenizer.
        progress: called after every step.
        trust_remote_code: whether Python code beside the weights may run.

    Raises:
        InputError: there are no sequences, the checkpoint cannot be loaded, or it does not read such sequences.
    """
    refuse_nothing(part)
    model = trainable_checkpoint(base, [part], trust_remote_code=trust_remote_code).to(device)  # type: ignore[arg-type]  # transformers hides torch's signature
    identity = {"tuning": tuning.recipe, "base": base_hash, "device": torch.device(device).type}
    run = TrainingRun(model, partial(summed_loss, model), part, tuning, identity)
    return run.train(workspace, progress, partial(save_beside_code, model, base))


def trainable_checkpoint(
    base: Path, parts: Sequence[TrainingTokens], *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return the model in a folder on the processor, in float32 and training mode, all of its weights to be trained.

    Args:
        base: the folder.
        parts: what it is to be trained on.
        trust_remote_code: whether Python code beside the weights may run.

    Raises:
        InputError: the model cannot be loaded, or does not read such sequences.
    """
    with quiet():
        model = load_checkpoint(base, dtype="float32", trust_remote_code=trust_remote_code)
    for part in parts:
        _refuse_other_tokens(model, part)
    model.config.use_cache = False
    model.requires_grad_(requires_grad=True).train()
    return model


def summed_loss(model: PreTrainedModel, tokens: Tensor, labels: Tensor) -> Tensor:
    """Return the summed next-token loss of [sequence, position] tokens, from the logits as the model gives them.

    No mask is needed, because attention is causal and padding comes last.
    """
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(
        rearrange(logits, "sequence position token -> (sequence position) token"),
        rearrange(labels[:, 1:], "sequence position -> (sequence position)"),
        ignore_index=IGNORED,
        reduction="sum",
    )


def _refuse_other_tokens(model: PreTrainedModel, part: TrainingTokens) -> None:
    rows, context = embedding_rows(model), context_length(model.config)
    if int(part.tokens.max()) >= rows:
        raise InputError(
            BASE,
            f"has an embedding of {rows} tokens, and the corpus has others, which the model's tokenizer makes",
            "Name the checkpoint that has the tokens of the fine-tuned model.",
        )
    if part.tokens.shape[1] > context:
        problem = f"has a context of {context} tokens, and sequences have {part.tokens.shape[1]}"
        raise InputError(BASE, problem, "Name the checkpoint that the model in model.path was fine-tuned from.")


def save_beside_code(model: PreTrainedModel, base: Path, folder: Path) -> None:
    """Write a model into a folder, with the Python code that lies in the folder that it came from."""
    with quiet():
        model.save_pretrained(folder)
    for code in base.glob("*.py"):
        shutil.copy(code, folder)
