"""Training of many small models of one architecture at once, with a leading model axis.

Parameters are stacked, so that each product is a batched one. Each model has its own sequences, order, schedule and
clipping, and ends with the weights that training it alone gives, but for rounding. For devices, on which a single small
model leaves most of the device idle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional
from transformers import AutoModelForCausalLM, PretrainedConfig

from influence_assets.models.training_run import (
    BETAS,
    IGNORED,
    LARGEST_GRADIENT_NORM,
    WEIGHT_DECAY,
    Recipe,
    one_cycle,
    order_of_epoch,
    refuse_nothing,
    steps_per_epoch,
    tokens_and_labels,
)
from influence_assets.training_tokens import TrainingTokens

Weights = dict[str, Tensor]
ATTENTION = "eager"
"""The implementation of attention, which must have a batching rule."""

_EPSILON = 1e-8  # AdamW's
_CLIPPING_EPSILON = 1e-6  # of clip_grad_norm_
_COPIES_OF_WEIGHTS = 6  # weights, gradients as they come and clipped, two moments, and a margin for single steps
_COPIES_OF_LOGITS = 4  # slices and gradients, beside what the pass keeps


@dataclass(frozen=True)
class TrainedAmongOthers:
    """One of several models that were trained at once.

    Args:
        weights: its weights by name, on the processor; tied ones once.
        final_loss: mean training loss over its last epoch, in nats per token.
        steps: number of its optimiser steps.
    """

    weights: Weights
    final_loss: float
    steps: int


def train_together(
    models: Sequence[nn.Module],
    parts: Sequence[TrainingTokens],
    recipes: Sequence[Recipe],
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda _step, _steps: None,
) -> list[TrainedAmongOthers]:
    """Train models of one architecture, without dropout, each on its own sequences.

    Models whose epochs have fewer batches end earlier; the others go on.

    Args:
        models: Hugging Face causal language models on the processor, with attention as in `ATTENTION`. Their weights
            stay as they are, and the same model may be given several times.
        parts: the sequences of each, all of one length.
        recipes: the schedule of each, all with the same `batch_sequences`.
        device: the device to train on.
        progress: called after every step with its number and that of all.

    Raises:
        InputError: a model has no sequences.
        ValueError: the numbers of models, parts and recipes differ.
    """
    for part in parts:
        refuse_nothing(part)
    feeds = [_Feed(*each) for each in zip(parts, recipes, strict=True)]
    if len(feeds) != len(models):
        raise ValueError(f"{len(models)} models have {len(feeds)} parts")
    weights, buffers = (_on(device, stacked) for stacked in stack_module_state(list(models)))
    mean_losses = vmap(_mean_loss(models[0]))
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    dtype = next(iter(weights.values())).dtype
    total = torch.zeros(len(models), dtype=dtype, device=device)
    steps = max(feed.steps for feed in feeds)
    for step in range(steps):
        tokens, labels = (torch.stack(each).to(device) for each in zip(*(f.batch(step) for f in feeds), strict=True))
        rates = torch.tensor([feed.rate(step) for feed in feeds], dtype=torch.float64)
        is_on = torch.tensor([step < feed.steps for feed in feeds], device=device)
        losses = mean_losses(
            {name: weight.requires_grad_() for name, weight in weights.items()}, buffers, tokens, labels
        )
        # The gradient of the sum has each model's own. `torch.func.grad` would keep the backward pass as well.
        g = dict(zip(weights, torch.autograd.grad(losses.sum(), list(weights.values())), strict=True))
        with torch.no_grad():
            _adamw(weights, _clipped(g), (first, second), rates.to(device, dtype), is_on, step + 1)
        total += losses.detach() * torch.tensor([feed.counted_targets for feed in feeds], device=device)
        progress(step + 1, steps)
    return [
        TrainedAmongOthers(
            {name: weight[number].detach().cpu() for name, weight in weights.items()},
            loss / max(feed.targets_of_last_epoch, 1),
            feed.steps,
        )
        for number, (feed, loss) in enumerate(zip(feeds, total.tolist(), strict=True))
    ]


class SizeOfOne(NamedTuple):
    """The size of each of the models that are trained at once.

    Args:
        weights: the bytes of its weights in float32.
        training: about how many bytes of the device its training takes.
    """

    weights: int
    training: int


def size_of_one(config: PretrainedConfig, sequences: int, tokens: int) -> SizeOfOne:
    """Return the size of each of the models that are trained at once.

    It is counted by running a step of one model on tensors without memory.

    Args:
        config: the configuration of the models.
        sequences: sequences in one optimiser step.
        tokens: tokens in a sequence.
    """
    build: Any = AutoModelForCausalLM.from_config  # untyped
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(config, dtype=torch.float32, attn_implementation=ATTENTION).train()
        ids = torch.zeros((sequences, tokens), dtype=torch.long)
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = model(input_ids=ids, use_cache=False).logits
            loss = functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
        del loss  # held until here, so that no two storages have one address
        own = [*model.parameters(), *model.buffers()]
        for tensor in own:
            kept.pop(tensor.untyped_storage()._cdata, None)
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        logits_bytes = 4 * logits.numel()
    return SizeOfOne(weights, _COPIES_OF_WEIGHTS * weights + _COPIES_OF_LOGITS * logits_bytes + sum(kept.values()))


def can_be_together(config: PretrainedConfig) -> bool:
    """Return whether models of a configuration can be trained at once.

    They can if they have neither dropout in training nor experts, which each token chooses by its values. Heads of
    other tasks, such as classification, do not count.
    """
    return not _keeps_apart(config.to_dict())


def _keeps_apart(settings: Mapping[str, Any]) -> bool:
    for key, value in settings.items():
        name = str(key)
        is_dropout = "drop" in name and not name.startswith(("classifier", "summary")) and bool(value)
        has_experts = "experts" in name and isinstance(value, int) and value > 1
        if is_dropout or has_experts or (isinstance(value, Mapping) and _keeps_apart(value)):
            return True
    return False


def _on(device: str, stacked: Mapping[str, Tensor]) -> Weights:
    return {name: tensor.detach().to(device) for name, tensor in stacked.items()}


def _mean_loss(skeleton: nn.Module) -> Callable[[Weights, Weights, Tensor, Tensor], Tensor]:
    """Return the mean next-token loss of a model as a function of its weights, buffers, tokens and labels."""

    def mean_loss(weights: Weights, buffers: Weights, tokens: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(skeleton, (weights, buffers), (tokens,), {"use_cache": False}).logits[:, :-1]
        targets = labels[:, 1:].flatten()
        total = functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    return mean_loss


class _Feed:
    """The batches and learning rates of one model."""

    def __init__(self, part: TrainingTokens, recipe: Recipe) -> None:
        self.part, self.recipe, self.size = part, recipe, recipe.batch_sequences
        self.steps_per_epoch = steps_per_epoch(part, recipe)
        self.steps = self.steps_per_epoch * recipe.epochs
        self.counted_targets = 0
        """Tokens with a loss in the last batch, if that was one of the last epoch; else 0."""
        self.targets_of_last_epoch = 0
        self._order: tuple[int, Tensor] | None = None

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; 0 after the last."""
        return one_cycle(step, self.steps, peak=self.recipe.learning_rate) if step < self.steps else 0.0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return tokens and labels, [size, token], without labels in the places that no sequence fills."""
        tokens = torch.zeros(self.size, self.part.tokens.shape[1], dtype=torch.long)
        labels = torch.full_like(tokens, IGNORED)
        self.counted_targets = 0
        if step < self.steps:
            epoch, batch = divmod(step, self.steps_per_epoch)
            if self._order is None or self._order[0] != epoch:
                self._order = epoch, order_of_epoch(self.recipe.seed, epoch, len(self.part.tokens))
            rows = self._order[1][batch * self.size : (batch + 1) * self.size].numpy()
            loss = None if self.part.loss is None else self.part.loss[rows]
            # Only now, because int64 tokens and labels of all models would take more memory than their weights.
            drawn = tokens_and_labels(TrainingTokens(self.part.tokens[rows], self.part.lengths[rows], loss))
            tokens[: len(rows)], labels[: len(rows)] = drawn
            if epoch == self.recipe.epochs - 1:
                self.counted_targets = int((labels[:, 1:] != IGNORED).sum())
                self.targets_of_last_epoch += self.counted_targets
        return tokens, labels


def _clipped(g: Weights) -> Weights:
    """Return gradients [model, ...] scaled so that each model's norm is at most `LARGEST_GRADIENT_NORM`."""
    norms = torch.stack([each.flatten(1).norm(dim=1) for each in g.values()]).norm(dim=0)
    scales = (LARGEST_GRADIENT_NORM / (norms + _CLIPPING_EPSILON)).clamp(max=1.0)
    return {name: each * _of_models(scales, each) for name, each in g.items()}


def _adamw(
    weights: Weights, g: Weights, moments: tuple[Weights, Weights], rates: Tensor, is_on: Tensor, count: int
) -> None:
    """Take AdamW's step `count` (Loshchilov & Hutter 2019, Alg. 2), in place, with a rate [model] for each model."""
    beta_1, beta_2 = BETAS
    for name, weight in weights.items():
        m, v, rate = moments[0][name], moments[1][name], _of_models(rates, weight)
        m.lerp_(g[name], 1 - beta_1)
        v.mul_(beta_2).addcmul_(g[name], g[name], value=1 - beta_2)
        denominator = (v / (1 - beta_2**count)).sqrt() + _EPSILON
        moved = weight * (1 - rate * WEIGHT_DECAY) - rate * (m / (1 - beta_1**count)) / denominator
        weight.copy_(torch.where(_of_models(is_on, weight), moved, weight))


def _of_models(values: Tensor, like: Tensor) -> Tensor:
    """Return a value for each model, [model], in the shape of a stacked tensor, [model, 1, ...]."""
    return values.reshape(-1, *(1 for _ in like.shape[1:]))
