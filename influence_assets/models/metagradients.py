"""Derivatives of what a trained model says by the weights of its examples in training (MAGIC; Engstrom et al. 2025).

Training is a function of how much each token's loss weighs: the gradient of a step is ∇ Σ_z w_z L_z / T, with T the
tokens of its batch that carry a loss, clipped and given to AdamW, whose state goes on to the next step. Its reverse,
from the last step to the first, is reverse-mode differentiation of the whole run, with states computed again instead of
kept (arXiv 2503.13751). It is exact for the run as it was, but for rounding: clipping, both moments, weight decay and
the schedule are all differentiated. T stays what it is when a weight changes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.adamw import AdamState, AdamW, adamw_step, clipping_factor
from influence_assets.models.replay import Carried, Replay
from influence_assets.models.token_losses import (
    TokenLosses,
    Weights,
    completion_gradients,
    leaves_of,
    loss_gradient,
    twice_differentiable,
)
from influence_assets.models.training_run import BETAS, IGNORED, LARGEST_GRADIENT_NORM, WEIGHT_DECAY, TrainingRun

ADAMW = AdamW(BETAS, WEIGHT_DECAY)
"""The optimiser of every training run."""


class ByToken(NamedTuple):
    """What every token of training does to every query.

    Args:
        values: float64 [query, sequence, token], of the loss by which the token is predicted; 0 where it has none.
        log_probabilities: float64 [query]: f of the replayed model, in nats.
        weights: those of the replayed model.
    """

    values: np.ndarray
    log_probabilities: np.ndarray
    weights: Weights


def metagradients(
    run: TrainingRun,
    losses: TokenLosses,
    queries: tuple[Tensor, Tensor],
    folder: Path,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> ByToken:
    """Return ∂f(θ_T)/∂w of every token's loss, in nats for each unit of its weight in every batch with the token.

    Each step takes a forward and a backward pass, and for each query one more pass of about twice their work.

    Args:
        run: the run, at its beginning.
        losses: the token losses of its model.
        queries: tokens and labels, int64 [query, token], with a label only where a completion is predicted.
        folder: a folder for this computation only, by which an interrupted one goes on.
        progress: called with the steps that are done and their number.
    """

    def begin(last: AdamState) -> Carried:
        gradients, f = completion_gradients(losses, leaves_of(last.θ), queries)
        shape = len(f), *run.tokens.shape
        adjoints = {f"θ/{name}": torch.stack([each[name] for each in gradients]) for name in last.θ}
        moments = {f"{letter}/{name}": torch.zeros_like(adjoints[f"θ/{name}"]) for letter in "mv" for name in last.θ}
        return adjoints | moments | {"values": f.new_zeros(shape, dtype=torch.float64), "f": f.double()}

    def visit(before: AdamState, _after: AdamState, carried: Carried) -> None:
        rows = run.rows_of_batch()
        batch = run.tokens[rows].to(run.device), run.labels[rows].to(run.device)
        names, adjoints = list(before.θ), []
        for query in range(len(carried["f"])):
            adjoints.append([carried[f"{letter}/{name}"][query] for letter in "θmv" for name in names])
        for query, (to_state, to_w) in enumerate(_pulled_back(losses, before, batch, run.rate, adjoints)):
            for (letter, name), value in zip(((x, n) for x in "θmv" for n in names), to_state, strict=True):
                carried[f"{letter}/{name}"][query] = value
            carried["values"][query].index_add_(0, rows.to(run.device), to_w.double())

    replay = Replay(run, folder, progress)
    carried = replay.backwards(begin, visit)
    return ByToken(carried["values"].cpu().numpy(), carried["f"].cpu().numpy(), replay.last().θ)


def _pulled_back(
    losses: TokenLosses,
    before: AdamState,
    batch: tuple[Tensor, Tensor],
    rate: float,
    adjoints: Sequence[Sequence[Tensor]],
) -> "list[tuple[list[Tensor], Float[Tensor, 'sequence token']]]":
    """Return, for each adjoint of the state after a step, that of the state before and that of the tokens' weights."""
    θ, m, v = (leaves_of(each) for each in (before.θ, before.m, before.v))
    targets = max(1, int((batch[1][:, 1:] != IGNORED).sum()))
    w = torch.ones_like(batch[0], dtype=next(iter(θ.values())).dtype).requires_grad_()
    with twice_differentiable():
        g = loss_gradient(losses, θ, batch, w / targets)
    factor = clipping_factor(g, LARGEST_GRADIENT_NORM)
    after = adamw_step(AdamState(θ, m, v, before.count), {name: each * factor for name, each in g.items()}, rate, ADAMW)
    outputs = [*after.θ.values(), *after.m.values(), *after.v.values()]
    inputs = [*θ.values(), *m.values(), *v.values(), w]
    pulled = []
    for adjoint in adjoints:
        *to_state, to_w = torch.autograd.grad(outputs, inputs, adjoint, retain_graph=True, materialize_grads=True)
        pulled.append((to_state, to_w))
    return pulled
