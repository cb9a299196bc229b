"""In-run data Shapley values: what each token of each step adds to the queries' log-probabilities (Wang et al. 2024).

A step's utility is how much f changes by it, as a function of which of its batch's losses are counted. Its Taylor
expansion has a Shapley value in closed form (arXiv 2406.11011), and values of steps add up, because Shapley values are
linear in the utility. T is the number of the batch's tokens that carry a loss; it stays what it is.

Of plain SGD, θ ← θ − (η/T) Σ_j ∇ℓ_j, the expansion is taken to the second order:
φ_z = −(η/T) ∇f·∇ℓ_z + (η²/2T²) ∇ℓ_zᵀ H_f Σ_j ∇ℓ_j.

AdamW's step is not a sum over its batch: it divides by √v̂ + ε, and the batch's gradient is clipped. With both held as
they were in the run, it is one again, θ ← θ − η m̂ / (√v̂ + ε) − …, with m̂ a weighted sum of the gradients of this and
all earlier steps. So f changes to the first order by Σ_t ∇f(θ_t)·(θ_{t+1} − θ_t), which is the sum of one term for each
token of each step, and of one for weight decay, which is nobody's. A token's term is its Shapley value in that sum:
φ_z = −(1 − β₁) (c_s/T_s) ⟨Σ_{t≥s} β₁^{t−s} η_t / (1 − β₁^{t+1}) ∇f(θ_t) / (√v̂_{t+1} + ε), ∇ℓ_z(θ_s)⟩ for a token of
step s, with c_s the factor of clipping. A token has a term for each step whose batch it is in.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from influence_assets.maths.adamw import AdamState, clipping_factor, root_of_mean_square
from influence_assets.models.metagradients import ADAMW, ByToken
from influence_assets.models.replay import Carried, Replay
from influence_assets.models.token_losses import (
    TokenLosses,
    completion_gradients,
    leaves_of,
    loss_gradient,
    products_with_token_gradients,
    twice_differentiable,
)
from influence_assets.models.training_run import IGNORED, LARGEST_GRADIENT_NORM, TrainingRun

Progress = Callable[[int, int], None]


def adamw_values(
    run: TrainingRun,
    losses: TokenLosses,
    queries: tuple[Tensor, Tensor],
    folder: Path,
    progress: Progress = lambda _done, _all: None,
) -> ByToken:
    """Return the first-order values of every token over the run, in nats, with √v̂ and clipping held.

    Args:
        run: the run, at its beginning.
        losses: the token losses of its model.
        queries: tokens and labels, int64 [query, token], with a label only where a completion is predicted.
        folder: a folder for this computation only, by which an interrupted one goes on.
        progress: called with the steps that are done and their number.
    """
    β_1 = ADAMW.betas[0]

    def begin(last: AdamState) -> Carried:
        f = -losses(last.θ, *queries).sum(1)
        carried = {f"u/{name}": weight.new_zeros(len(f), *weight.shape) for name, weight in last.θ.items()}
        return carried | {"values": f.new_zeros((len(f), *run.tokens.shape), dtype=torch.float64), "f": f.double()}

    def visit(before: AdamState, after: AdamState, carried: Carried) -> None:
        with twice_differentiable():
            batch = _Batch(run, losses, before.θ)
            gradients, _ = completion_gradients(losses, batch.θ, queries)
        for name in before.θ:
            scale = run.rate / (1 - β_1**after.count) / root_of_mean_square(after.v[name], after.count, ADAMW)
            carried[f"u/{name}"] *= β_1
            carried[f"u/{name}"] += torch.stack([scale * each[name] for each in gradients])
        factor = -(1 - β_1) * float(clipping_factor(batch.g, LARGEST_GRADIENT_NORM).detach())
        vectors = [{n: factor * carried[f"u/{n}"][query] for n in before.θ} for query in range(len(gradients))]
        batch.add_products(vectors, carried["values"])

    replay = Replay(run, folder, progress)
    carried = replay.backwards(begin, visit)
    return ByToken(carried["values"].cpu().numpy(), carried["f"].cpu().numpy(), replay.last().θ)


def sgd_values(
    run: TrainingRun,
    losses: TokenLosses,
    queries: tuple[Tensor, Tensor],
    progress: Progress = lambda _done, _all: None,
) -> ByToken:
    """Return the second-order values of every token, in nats, of a run of plain SGD with the run's batches and rates.

    The run itself is not taken: SGD has neither moments nor weight decay nor clipping, and ends in another model.

    Args:
        run: the run, at its beginning.
        losses: the token losses of its model.
        queries: tokens and labels, int64 [query, token], with a label only where a completion is predicted.
        progress: called with the steps that are done and their number.
    """
    θ = {name: each.detach().clone() for name, each in run.parameters.items()}
    values = torch.zeros(len(queries[0]), *run.tokens.shape, dtype=torch.float64, device=run.device)
    with twice_differentiable():
        while run.step < run.steps:
            η = run.rate
            batch = _Batch(run, losses, θ)
            g = {name: each.detach() for name, each in batch.g.items()}
            gradients, _ = completion_gradients(losses, batch.θ, queries, create_graph=True)
            vectors = []
            for of_query in gradients:
                curved = _hessian_product(of_query, batch.θ, g)
                vectors.append({n: -η * of_query[n].detach() + η**2 / 2 * curved[n] for n in θ})
            batch.add_products(vectors, values)
            θ = {name: weight - η * g[name] for name, weight in θ.items()}
            run.step += 1
            progress(run.step, run.steps)
        f = -losses(θ, *queries).sum(1)
    return ByToken(values.cpu().numpy(), f.double().detach().cpu().numpy(), θ)


class _Batch:
    """The next batch of a run at some weights, with the gradient of its mean loss as a function of tokens' weights."""

    def __init__(self, run: TrainingRun, losses: TokenLosses, θ: dict[str, Tensor]) -> None:
        self._rows = run.rows_of_batch()
        tokens, labels = run.tokens[self._rows].to(run.device), run.labels[self._rows].to(run.device)
        self.θ = leaves_of(θ)
        self._targets = max(1, int((labels[:, 1:] != IGNORED).sum()))
        with torch.enable_grad():
            self._w = torch.ones_like(tokens, dtype=next(iter(θ.values())).dtype).requires_grad_()
            self.g = loss_gradient(losses, self.θ, (tokens, labels), self._w / self._targets)

    def add_products(self, vectors: list[dict[str, Tensor]], values: Tensor) -> None:
        """Add ⟨u, ∇ℓ⟩ / T of every vector and token to values [vector, sequence, token]."""
        products = products_with_token_gradients(self.g, self._w, vectors)
        values.index_add_(1, self._rows.to(values.device), products.to(values))


def _hessian_product(gradient: dict[str, Tensor], θ: dict[str, Tensor], x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return H x, with `gradient` a differentiable function of θ."""
    products = torch.autograd.grad(
        list(gradient.values()), list(θ.values()), [x[name] for name in gradient], retain_graph=True
    )
    return dict(zip(θ, products, strict=True))
