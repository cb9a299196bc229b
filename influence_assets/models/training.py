"""Training of a small GPT-2 and its tokenizer from scratch: seeded, resumable and reproducible to the bit.

The state of a run is one safetensors file whose header holds its position. It is replaced as a whole, so that it never
mixes two steps. The learning rate and the order of each epoch's sequences are functions of the step.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from influence_assets.errors import InputError
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.study import Training

END_OF_TEXT = "<|endoftext|>"

WARM_UP_SHARE = 0.15
FIRST_RATE, LAST_RATE = 1 / 25, 1 / 250_000  # of the peak
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT_NORM = 1.0

_STATE_FILE = "state.safetensors"
_SECONDS_BETWEEN_SAVES = 30.0
_IGNORED = -100  # cross_entropy's mark for a position without loss


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a run after a step; `loss` is that step's, in nats per token."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class TrainedModel:
    """The result of a finished run.

    Attributes:
        folder: a standard Hugging Face folder: config.json, model.safetensors, tokenizer.json.
        final_loss: mean training loss over the last epoch, in nats per token.
        epoch_losses: mean training loss over each epoch.
        steps: number of optimiser steps of the whole run.
        seconds: how long this call took.
        resumed_from_step: number of steps that earlier, interrupted calls had done; 0 for a new run.
    """

    folder: Path
    final_loss: float
    epoch_losses: tuple[float, ...]
    steps: int
    seconds: float
    resumed_from_step: int


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
    if not len(sequences):
        raise InputError("corpus.path", "holds no text to train a model on", "Put documents into the folder.")
    keep_freed_memory()
    started = time.monotonic()
    run = _Run(sequences, lengths, training, tokenizer, loss_mask)
    workspace.mkdir(parents=True, exist_ok=True)
    resumed_from = run.restore(workspace / _STATE_FILE)
    saved = started
    while run.step < run.steps:
        loss = run.take_step()
        epoch, within = divmod(run.step, run.steps_per_epoch)
        if within == 0 or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
            run.save(workspace / _STATE_FILE)
            saved = time.monotonic()
        seconds = time.monotonic() - started
        progress(TrainingProgress(run.step, run.steps, epoch + (within > 0), training.epochs, loss, seconds))
    folder = _save_model(run.model, tokenizer, workspace / "model")
    final_loss, seconds = run.epoch_loss / max(run.epoch_targets, 1), time.monotonic() - started
    return TrainedModel(folder, final_loss, tuple(run.epoch_losses), run.steps, seconds, resumed_from)


class _Run:
    """The model and the optimiser between two steps."""

    def __init__(
        self,
        sequences: NDArray[np.int32],
        lengths: NDArray[np.int32],
        training: Training,
        tokenizer: Tokenizer,
        loss: NDArray[np.uint8] | None,
    ) -> None:
        self.training = training
        self.steps_per_epoch = math.ceil(len(sequences) / training.batch_sequences)
        self.steps = self.steps_per_epoch * training.epochs
        self.step = 0
        self.epoch_loss, self.epoch_targets = 0.0, 0
        self.epoch_losses: list[float] = []  # of finished epochs
        self.order: Tensor | None = None  # of the present epoch
        self.tokens = torch.from_numpy(sequences.astype(np.int64))
        is_padding = torch.arange(sequences.shape[1]) >= torch.from_numpy(lengths.astype(np.int64))[:, None]
        self.labels = self.tokens.masked_fill(is_padding, _IGNORED)
        if loss is not None:
            self.labels.masked_fill_(torch.from_numpy(loss == 0), _IGNORED)
        self.model = _new_model(training, tokenizer, context=sequences.shape[1])
        # One entry for each tensor: GPT-2's output layer is its token embedding.
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=training.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.fingerprint = _fingerprint(sequences, lengths, training, self.model.config.vocab_size, loss)

    def take_step(self) -> float:
        """Train on the next batch and return its mean loss in nats per token."""
        epoch, batch = divmod(self.step, self.steps_per_epoch)
        if batch == 0:
            self.epoch_loss, self.epoch_targets = 0.0, 0
        if batch == 0 or self.order is None:
            self.order = torch.from_numpy(
                np.random.default_rng([self.training.seed, epoch]).permutation(len(self.tokens))
            )
        size = self.training.batch_sequences
        rows = self.order[batch * size : (batch + 1) * size]
        for group in self.optimizer.param_groups:
            group["lr"] = one_cycle(self.step, self.steps, peak=self.training.learning_rate)
        total, targets = _summed_loss(self.model, self.tokens[rows], self.labels[rows])
        (total / max(targets, 1)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.epoch_loss += total.item()
        self.epoch_targets += targets
        if batch == self.steps_per_epoch - 1:
            self.epoch_losses.append(self.epoch_loss / max(self.epoch_targets, 1))
        return total.item() / max(targets, 1)

    def save(self, path: Path) -> None:
        """Replace the state file with the current state, as a whole."""
        tensors = {f"model/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"optimizer/{key}/{name}": value for key, value in self.optimizer.state[parameter].items()}
        position = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "epoch_loss": self.epoch_loss,
            "epoch_targets": self.epoch_targets,
            "epoch_losses": self.epoch_losses,
        }
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"position": json.dumps(position)})
        partial.replace(path)

    def restore(self, path: Path) -> int:
        """Restore the saved state if it belongs to this run; return its step, or 0 without one."""
        if not path.is_file():
            return 0
        try:
            with safe_open(path, framework="pt") as stored:
                position = json.loads(stored.metadata()["position"])
                if position["fingerprint"] != self.fingerprint:
                    return 0
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError:
            return 0  # the file may have been cut off by a full disk: the run starts over
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model/{name}"])
                self.optimizer.state[parameter] = {
                    key: tensors[f"optimizer/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self.step = int(position["step"])
        self.epoch_loss, self.epoch_targets = position["epoch_loss"], position["epoch_targets"]
        self.epoch_losses = list(position.get("epoch_losses", []))  # earlier releases did not save them
        return self.step


def one_cycle(step: int, steps: int, *, peak: float) -> float:
    """Return the learning rate of a step: half a cosine up over `WARM_UP_SHARE` of the steps, then half a cosine down.

    It starts at `FIRST_RATE` times the peak and ends at `LAST_RATE` times the peak (Smith & Topin 2018).
    """
    top = WARM_UP_SHARE * steps
    if step < top:
        start, end, share = FIRST_RATE * peak, peak, step / top
    else:
        start, end, share = peak, LAST_RATE * peak, (step - top) / max(steps - 1 - top, 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def _summed_loss(model: GPT2LMHeadModel, tokens: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Return the summed next-token loss of [sequence, position] tokens, and how many tokens were predicted.

    The hidden states are shifted, not the logits: a slice of the logits would be copied and, in the backward pass,
    filled with zeros first. No mask is needed, because attention is causal and padding comes last.
    """
    hidden = model.transformer(input_ids=tokens).last_hidden_state[:, :-1]
    logits = model.lm_head(rearrange(hidden, "sequence position width -> (sequence position) width"))
    targets = rearrange(labels[:, 1:], "sequence position -> (sequence position)")
    loss = functional.cross_entropy(logits, targets, ignore_index=_IGNORED, reduction="sum")
    return loss, int((targets != _IGNORED).sum())


def _new_model(training: Training, tokenizer: Tokenizer, *, context: int) -> GPT2LMHeadModel:
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model: GPT2LMHeadModel = GPT2LMHeadModel(config).train()
    return model


def _fingerprint(
    sequences: NDArray[np.int32],
    lengths: NDArray[np.int32],
    training: Training,
    vocabulary: int,
    loss: NDArray[np.uint8] | None,
) -> str:
    """Return a hash of everything that determines the weights."""
    settings = {
        "training": training.model_dump(exclude={"members"}),
        "shape": sequences.shape,
        "vocabulary": vocabulary,
        "code": 1,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(sequences, dtype="<i4").tobytes())
    digest.update(np.ascontiguousarray(lengths, dtype="<i4").tobytes())
    if loss is not None:
        digest.update(np.ascontiguousarray(loss).tobytes())
    return digest.hexdigest()


def _save_model(model: GPT2LMHeadModel, tokenizer: Tokenizer, folder: Path) -> Path:
    partial = folder.with_name(f"{folder.name}.partial")
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    model.save_pretrained(partial)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )
    fast.save_pretrained(partial)
    return partial.rename(folder)
