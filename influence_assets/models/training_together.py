"""Training of many small models of one architecture at once, with a leading model axis.

Parameters are stacked, so that each product is a batched one. Each model has its own sequences, order, schedule and
clipping, and ends with the weights that training it alone gives, but for rounding. For devices, on which a single small
model leaves most of the device idle.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from influence_assets.models.training_run import (
    BETAS,
    IGNORED,
    LARGEST_GRADIENT_NORM,
    WEIGHT_DECAY,
    MaskedSequences,
    Recipe,
    one_cycle,
    order_of_epoch,
    refuse_nothing,
    steps_per_epoch,
    tokens_and_labels,
)

Weights = dict[str, Tensor]
_EPSILON = 1e-8  # AdamW's
_CLIPPING_EPSILON = 1e-6  # of clip_grad_norm_


def train_together(
    models: Sequence[nn.Module], parts: Sequence[MaskedSequences], recipes: Sequence[Recipe]
) -> list[Weights]:
    """Train models of one architecture, without dropout, each on its own sequences.

    Models whose epochs have fewer batches end earlier; the others go on.

    Args:
        models: Hugging Face causal language models on one device, which are left as they are. Their attention must
            have a batching rule, as `eager` has.
        parts: the sequences of each, all of one length.
        recipes: the schedule of each, all with the same `batch_sequences`.

    Returns:
        The weights of each by name; tied ones once.

    Raises:
        InputError: a model has no sequences.
        ValueError: the numbers of models, parts and recipes differ.
    """
    for part in parts:
        refuse_nothing(part)
    weights, buffers = stack_module_state(list(models))
    weights = {name: weight.detach() for name, weight in weights.items()}
    feeds = [_Feed(*each) for each in zip(parts, recipes, strict=True)]
    if len(feeds) != len(models):
        raise ValueError(f"{len(models)} models have {len(feeds)} parts")
    skeleton = models[0]
    device = next(iter(weights.values())).device

    def mean_loss(weights: Weights, buffers: Weights, tokens: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(skeleton, (weights, buffers), (tokens,), {"use_cache": False}).logits[:, :-1]
        targets = labels[:, 1:].flatten()
        total = functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    gradients = vmap(grad(mean_loss))
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for step in range(max(feed.steps for feed in feeds)):
        tokens, labels = (torch.stack(each).to(device) for each in zip(*(f.batch(step) for f in feeds), strict=True))
        rates = torch.tensor([feed.rate(step) for feed in feeds], dtype=torch.float64)
        is_on = torch.tensor([step < feed.steps for feed in feeds], device=device)
        g = _clipped(gradients(weights, buffers, tokens, labels))
        _adamw(weights, g, (first, second), rates.to(device, next(iter(weights.values())).dtype), is_on, step + 1)
    return [{name: weight[number].clone() for name, weight in weights.items()} for number in range(len(models))]


class _Feed:
    """The batches and learning rates of one model."""

    def __init__(self, part: MaskedSequences, recipe: Recipe) -> None:
        self.recipe, self.size = recipe, recipe.batch_sequences
        self.tokens, self.labels = tokens_and_labels(part)
        self.steps_per_epoch = steps_per_epoch(part, recipe)
        self.steps = self.steps_per_epoch * recipe.epochs
        self._order: tuple[int, Tensor] | None = None

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; 0 after the last."""
        return one_cycle(step, self.steps, peak=self.recipe.learning_rate) if step < self.steps else 0.0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return tokens and labels, [size, token], without labels in the places that no sequence fills."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, order_of_epoch(self.recipe.seed, epoch, len(self.tokens))
        rows = self._order[1][batch * self.size : (batch + 1) * self.size]
        tokens = self.tokens.new_zeros(self.size, self.tokens.shape[1])
        labels = torch.full_like(tokens, IGNORED)
        if step < self.steps:
            tokens[: len(rows)], labels[: len(rows)] = self.tokens[rows], self.labels[rows]
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
