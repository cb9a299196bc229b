"""Training of a small GPT-2 and its tokenizer from scratch."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from influence_assets.models.training_run import (
    IGNORED,
    TrainedModel,
    TrainingProgress,
    TrainingRun,
    refuse_nothing,
)
from influence_assets.study import Training
from influence_assets.training_tokens import TrainingTokens

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Train a byte-level BPE tokenizer with at most `vocabulary` ids, where 0 is the end of a text.

    Args:
        texts: what it is trained on.
        vocabulary: the largest number of ids.
        special_tokens: further special tokens, which have the ids from 1 on.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_language_model(  # noqa: PLR0913  # three of them are the sequences
    sequences: NDArray[np.int32],
    lengths: NDArray[np.int32],
    training: Training,
    *,
    tokenizer: Tokenizer,
    workspace: Path,
    progress: Callable[[TrainingProgress], None],
    loss_mask: NDArray[np.uint8] | None = None,
) -> TrainedModel:
    """Train a GPT-2 on the sequences, on the CPU, or continue where an interrupted call stopped.

    An interrupted run ends with exactly the weights of an uninterrupted one, to the bit (with the same number of
    threads). If the settings or tokens differ from those in the workspace, training starts over.

    Args:
        sequences: int32 [n, length], tokens of the tokenizer; `length` becomes the model's context.
        lengths: int32 [n], how many tokens of each sequence are real; the rest is padding.
        training: the architecture and the schedule.
        tokenizer: the tokenizer of the sequences, saved beside the model.
        workspace: a folder for this run only, for its state and, at the end, the model.
        progress: called after every step.
        loss_mask: uint8 [n, length], 1 where a token carries a loss; None means that all do.

    Raises:
        InputError: there are no sequences to train on.
    """
    model, run = new_run(TrainingTokens(sequences, lengths, loss_mask), training, tokenizer)
    return run.train(workspace, progress, partial(save_model, model, tokenizer))


def new_run(part: TrainingTokens, training: Training, tokenizer: Tokenizer) -> tuple[GPT2LMHeadModel, TrainingRun]:
    """Return a model as it is before its first step, and the run that trains it.

    Args:
        part: the sequences.
        training: the architecture and the schedule.
        tokenizer: the tokenizer of the sequences.

    Raises:
        InputError: there are no sequences to train on.
    """
    refuse_nothing(part)
    model = new_model(training, tokenizer, context=part.tokens.shape[1])
    identity = {"training": training.model_dump(exclude={"members"}), "vocabulary": model.config.vocab_size}
    return model, TrainingRun(model, partial(_summed_loss, model), part, training, identity)


def _summed_loss(model: GPT2LMHeadModel, tokens: Tensor, labels: Tensor) -> Tensor:
    """Return the summed next-token loss of [sequence, position] tokens.

    The hidden states are shifted, not the logits: a slice of the logits would be copied and, in the backward pass,
    filled with zeros first. No mask is needed, because attention is causal and padding comes last.
    """
    hidden = model.transformer(input_ids=tokens).last_hidden_state[:, :-1]
    logits = model.lm_head(rearrange(hidden, "sequence position width -> (sequence position) width"))
    targets = rearrange(labels[:, 1:], "sequence position -> (sequence position)")
    return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def model_config(training: Training, *, vocabulary: int, context: int, end_of_text: int | None) -> GPT2Config:
    """Return the configuration of the model that a study trains.

    Args:
        training: the architecture.
        vocabulary: the number of tokens.
        context: the most tokens of a sequence.
        end_of_text: the token that ends a text.
    """
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=training.width,
        n_layer=training.layers,
        n_head=training.heads,
        # GPT-2's fixed 0.02 suits its own widths; narrow models learn far faster from this (Nguyen & Salazar 2019).
        initializer_range=math.sqrt(2 / (5 * training.width)),
        activation_function="gelu_pytorch_tanh",  # GPT-2's own gelu_new in one fused operation
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        use_cache=False,
    )


def new_model(training: Training, tokenizer: Tokenizer, *, context: int) -> GPT2LMHeadModel:
    """Return the model that a study trains as it is before its first step, in training mode."""
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    config = model_config(training, vocabulary=tokenizer.get_vocab_size(), context=context, end_of_text=end_of_text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model: GPT2LMHeadModel = GPT2LMHeadModel(config).train()
    return model


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a model and its tokenizer as a standard Hugging Face folder."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )
    fast.save_pretrained(folder)
