"""A run of training of any causal language model: seeded, resumable and reproducible to the bit.

The state of a run is one safetensors file whose header holds its position. It is replaced as a whole, so that it never
mixes two steps. The learning rate, the order of each epoch's sequences and the random numbers of dropout are functions
of the step.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from influence_assets.errors import InputError
from influence_assets.models.freed_memory import keep_freed_memory
from influence_assets.training_tokens import TrainingTokens

WARM_UP_SHARE = 0.15
FIRST_RATE, LAST_RATE = 1 / 25, 1 / 250_000  # of the peak
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT_NORM = 1.0
IGNORED = -100
"""The label of a position without a loss, as `cross_entropy` has it."""

_STATE_FILE = "state.safetensors"
_SECONDS_BETWEEN_SAVES = 30.0

SummedLoss = Callable[[Tensor, Tensor], Tensor]
"""Returns the summed next-token loss of int64 tokens [sequence, position], in nats, given labels of the same shape."""


class Recipe(Protocol):
    """How a model is trained: the settings that a run itself needs."""

    @property
    def epochs(self) -> int:
        """Passes over the sequences."""

    @property
    def batch_sequences(self) -> int:
        """Sequences in one optimiser step."""

    @property
    def learning_rate(self) -> float:
        """The peak of the schedule."""

    @property
    def seed(self) -> int:
        """Seed of the order of sequences and of dropout."""


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
        folder: a standard Hugging Face folder: config.json, model.safetensors, tokenizer.json; of an adapter, one of
            PEFT.
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


class TrainingRun:
    """A model and its optimiser between two steps.

    Args:
        model: the model, in the mode and on the device that it is trained in. Parameters that require no gradient stay
            as they are.
        summed_loss: the loss of the model.
        part: the sequences.
        recipe: the schedule.
        identity: everything else that determines the weights, as JSON: a state with another one is not resumed.

    Raises:
        InputError: there are no sequences to train on.
    """

    def __init__(
        self,
        model: nn.Module,
        summed_loss: SummedLoss,
        part: TrainingTokens,
        recipe: Recipe,
        identity: Mapping[str, Any],
    ) -> None:
        refuse_nothing(part)
        self.model, self.summed_loss, self.recipe = model, summed_loss, recipe
        self.steps_per_epoch = steps_per_epoch(part, recipe)
        self.steps = self.steps_per_epoch * recipe.epochs
        self.step = 0
        self.epoch_loss, self.epoch_targets = 0.0, 0
        self.epoch_losses: list[float] = []  # of finished epochs
        self._order: tuple[int, Tensor] | None = None
        self.tokens, self.labels = tokens_and_labels(part)
        # One entry for each tensor: a tied output layer is the token embedding.
        self.parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.fingerprint = _fingerprint(part, identity)

    def train(
        self, workspace: Path, progress: Callable[[TrainingProgress], None], save: Callable[[Path], None]
    ) -> TrainedModel:
        """Train to the end, from where an interrupted call with the same workspace stopped, and save the model.

        Args:
            workspace: a folder for this run only, for its state and, at the end, the model.
            progress: called after every step.
            save: writes the model into a folder that does not exist yet.
        """
        keep_freed_memory()
        started = time.monotonic()
        workspace.mkdir(parents=True, exist_ok=True)
        resumed_from = self.restore(workspace / _STATE_FILE)
        saved = started
        while self.step < self.steps:
            loss = self.take_step()
            epoch, within = divmod(self.step, self.steps_per_epoch)
            if within == 0 or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                self.save(workspace / _STATE_FILE)
                saved = time.monotonic()
            seconds = time.monotonic() - started
            progress(TrainingProgress(self.step, self.steps, epoch + (within > 0), self.recipe.epochs, loss, seconds))
        folder = _saved_as_a_whole(save, workspace / "model")
        final_loss, seconds = self.epoch_loss / max(self.epoch_targets, 1), time.monotonic() - started
        return TrainedModel(folder, final_loss, tuple(self.epoch_losses), self.steps, seconds, resumed_from)

    def take_step(self) -> float:
        """Train on the next batch and return its mean loss in nats per token."""
        batch = self.step % self.steps_per_epoch
        if batch == 0:
            self.epoch_loss, self.epoch_targets = 0.0, 0
        rows = self.rows_of_batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        labels = self.labels[rows]
        targets = int((labels[:, 1:] != IGNORED).sum())
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(_seed_of_step(self.recipe.seed, self.step))
            total = self.summed_loss(self.tokens[rows].to(self.device), labels.to(self.device))
            (total / max(targets, 1)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        loss = total.item()
        self.epoch_loss += loss
        self.epoch_targets += targets
        if batch == self.steps_per_epoch - 1:
            self.epoch_losses.append(self.epoch_loss / max(self.epoch_targets, 1))
        return loss / max(targets, 1)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return one_cycle(self.step, self.steps, peak=self.recipe.learning_rate)

    def rows_of_batch(self) -> Tensor:
        """Return the numbers of the sequences of the next batch, int64 [sequence]."""
        epoch, batch = divmod(self.step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, order_of_epoch(self.recipe.seed, epoch, len(self.tokens))
        size = self.recipe.batch_sequences
        return self._order[1][batch * size : (batch + 1) * size]

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
        position = self._stored_position(path)
        if position is None:
            return 0
        with safe_open(path, framework="pt", device=str(self.device)) as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model/{name}"])
                moments = {key: f"optimizer/{key}/{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
                # Before the first step there are none.
                self.optimizer.state[parameter] = {
                    key: tensors[each] for key, each in moments.items() if position["step"]
                }
        self.step = int(position["step"])
        self.epoch_loss, self.epoch_targets = position["epoch_loss"], position["epoch_targets"]
        self.epoch_losses = list(position.get("epoch_losses", []))  # earlier releases did not save them
        return self.step

    def stored_step(self, path: Path) -> int | None:
        """Return the step of a saved state; None if there is none that belongs to this run."""
        position = self._stored_position(path)
        return None if position is None else int(position["step"])

    def _stored_position(self, path: Path) -> dict[str, Any] | None:
        try:
            with safe_open(path, framework="pt") as stored:
                position: dict[str, Any] = json.loads(stored.metadata()["position"])
        except (FileNotFoundError, SafetensorError):
            return None  # a file may have been cut off by a full disk: the run starts over
        return position if position["fingerprint"] == self.fingerprint else None


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


def refuse_nothing(part: TrainingTokens) -> None:
    """Raise if there are no sequences to train on.

    Raises:
        InputError: there are none.
    """
    if not len(part.tokens):
        raise InputError("corpus.path", "holds no text to train a model on", "Put documents into the folder.")


def steps_per_epoch(part: TrainingTokens, recipe: Recipe) -> int:
    """Return the number of batches of an epoch, of which the last may be smaller."""
    return math.ceil(len(part.tokens) / recipe.batch_sequences)


def tokens_and_labels(part: TrainingTokens) -> tuple[Tensor, Tensor]:
    """Return the tokens and, for each, its label, both int64 [sequence, token]; `IGNORED` where there is no loss."""
    tokens = torch.from_numpy(part.tokens.astype(np.int64))
    is_padding = torch.arange(tokens.shape[1]) >= torch.from_numpy(part.lengths.astype(np.int64))[:, None]
    labels = tokens.masked_fill(is_padding, IGNORED)
    if part.loss is not None:
        labels.masked_fill_(torch.from_numpy(part.loss == 0), IGNORED)
    return tokens, labels


def order_of_epoch(seed: int, epoch: int, sequences: int) -> Tensor:
    """Return the order in which an epoch goes through the sequences, int64 [sequence]."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(sequences))


def _seed_of_step(seed: int, step: int) -> int:
    """Return the seed of the random numbers of a step, so that a run that is resumed drops out what it would have."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def _fingerprint(part: TrainingTokens, identity: Mapping[str, Any]) -> str:
    """Return a hash of everything that determines the weights."""
    settings = {**identity, "shape": part.tokens.shape, "code": 1}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(part.tokens, dtype="<i4").tobytes())
    digest.update(np.ascontiguousarray(part.lengths, dtype="<i4").tobytes())
    if part.loss is not None:
        digest.update(np.ascontiguousarray(part.loss).tobytes())
    return digest.hexdigest()


def _saved_as_a_whole(save: Callable[[Path], None], folder: Path) -> Path:
    partial = folder.with_name(f"{folder.name}.partial")
    for stale in (partial, folder):
        shutil.rmtree(stale, ignore_errors=True)
    save(partial)
    return partial.rename(folder)
