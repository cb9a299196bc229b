"""The proximal Bregman response function: what a model becomes if a sequence is added, without training it again.

    θ_ε = argmin_θ (1/M) Σ_i Σ_t KL(p_s,t ‖ p_θ,t) + ε L(z, θ) + Σ_l λ_l/2 ‖θ_l − θ_s,l‖²

(Bae et al. 2022, arXiv 2209.05364, Sec. 4; Grosse et al. 2023, Sec. 5.1). The model stays near what it says, θ_s, on M
sequences: for the softmax's cross-entropy the Bregman divergence of logits is the Kullback-Leibler divergence, summed
over the tokens that carry a loss. Only attributed layers move. ε = 1/N adds a copy of z to N training sequences, and
log p_θε − log p_θs of a query is what influence functions estimate: at θ_s, the divergence's Hessian is the
Gauss-Newton Hessian G, so that θ_ε − θ_s = −ε (G + λI)⁻¹ ∇L(z) + O(ε²).

Divergences are squares of small changes, so all of this is done in float64.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from influence_assets.capture.batches import Batch, Sequences
from influence_assets.capture.likelihoods import log_probabilities
from influence_assets.capture.losses import log_likelihoods
from influence_assets.capture.runner import Runner
from influence_assets.maths.curvature import Curvature
from influence_assets.maths.lbfgs import Minimum, Search, minimised
from influence_assets.maths.solvers import Vectors
from influence_assets.models.layers.rule import AttributedLayer


@dataclass(frozen=True)
class Response:
    """How a model responds to a sequence that is added.

    Args:
        changes: float64 [query]: log p of each query at θ_ε, less that at θ_s, in nats.
        relative_gradient: the norm of the objective's gradient at θ_ε, as a share of that at θ_s, ‖ε ∇L(z)‖.
        iterations: the steps of the minimisation.
        passes: how often each of the M sequences went through the model.
    """

    changes: np.ndarray
    relative_gradient: float
    iterations: int
    passes: int


class ProximalBregman:
    """The responses of one model to single sequences.

    Args:
        runner: the model, in float64, with its attributed layers.
        curvature: EK-FAC's curvature of every layer, whose damping λ is used, and whose inverse begins the search.
        fitted: the M sequences, or those of them that carry a loss.

    Raises:
        ValueError: the model is not in float64, or no sequence carries a loss.
    """

    def __init__(self, runner: Runner, curvature: Mapping[str, Curvature], fitted: Sequences) -> None:
        if runner.dtype != torch.float64:
            raise ValueError(f"responses are small differences, and need a model in float64, not {runner.dtype}")
        self._runner = runner
        self._curvature = runner.placed(curvature)
        self._fitted = fitted.with_loss()
        if not len(self._fitted):
            raise ValueError("no sequence that the model is to stay near to carries a loss")
        self._said = list(self._log_probabilities())

    def response(
        self,
        added: Sequences,
        queries: Sequence[Sequences],
        ε: float,
        search: Search = Search(),  # noqa: B008  # it is frozen
    ) -> Response:
        """Return how the model responds if a sequence is added with weight ε; the model is afterwards as it was.

        Args:
            added: the sequence z, one row.
            queries: the queries, set by set.
            ε: 1/N for one more copy, −1/N for one less.
            search: how long the minimum is searched for; at the start, the gradient is ε ∇L(z).
        """
        minimum = self.minimum(added, ε, search)
        before = self._answers(queries)
        with self._moved(minimum.x):
            after = self._answers(queries)
        return Response(after - before, minimum.relative_gradient, minimum.iterations, minimum.evaluations)

    def minimum(self, added: Sequences, ε: float, search: Search) -> Minimum:
        """Return θ_ε − θ_s, [1, d_out, d_in] in the coordinates of the layers' bases; arguments as in `response`."""
        loss_before = -float(log_probabilities(self._runner.model, added).sum())
        zero = {
            layer.name: torch.zeros(1, *self._curvature[layer.name].shape, dtype=torch.float64, device=layer.device)
            for layer in self._runner.modules
        }

        def objective(X: Vectors) -> tuple[float, Vectors]:
            with self._moved(X):
                divergence, of_divergence = self._divergence()
                loss, of_loss = self._gradient(self._loss(added))
            value, gradient = divergence + ε * (loss - loss_before), {}
            for name, x in X.items():
                λ = self._curvature[name].λ
                gradient[name] = of_divergence[name] + ε * of_loss[name] + λ * x
                value += λ / 2 * float(x.square().sum())
            return value, gradient

        return minimised(objective, self._preconditioned, zero, search)

    def _answers(self, queries: Sequence[Sequences]) -> np.ndarray:
        return np.concatenate([log_probabilities(self._runner.model, of_set) for of_set in queries])

    def _preconditioned(self, X: Vectors) -> Vectors:
        return {name: self._curvature[name].precondition(x.clone()) for name, x in X.items()}

    def _loss(self, added: Sequences) -> Iterator[Tensor]:
        for batch in self._runner.batches(added):
            yield -log_likelihoods(self._logits(batch), batch.labels()).sum()

    def _divergence(self) -> tuple[float, Vectors]:
        value, gradient = self._gradient(self._divergences())
        self._runner.progress(len(self._fitted))
        return value, gradient

    def _divergences(self) -> Iterator[Tensor]:
        """Yield Σ KL(p_s ‖ p_θ) / M of each batch.

        With Δ = log p_θ − log p_s it is Σ p_s (e^Δ − 1 − Δ), because Σ p_s e^Δ is 1. In this form no term is negative,
        and what is of first order in Δ, which is much larger than the sum, cancels word by word.
        """
        for said, logp in zip(self._said, self._log_probabilities(), strict=True):
            Δ = logp - said
            yield (said.exp() * (torch.expm1(Δ) - Δ)).sum() / len(self._fitted)

    def _log_probabilities(self) -> Iterator[Tensor]:
        """Yield log p [position, word] at the counted positions of each batch."""
        for batch in self._runner.batches(self._fitted, by_length=True):
            logits = self._logits(batch).flatten(0, 1)
            yield logits[batch.positions.to(logits.device)].log_softmax(-1)

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self._runner.model(input_ids=batch.tokens, use_cache=False).logits
        return logits

    def _gradient(self, parts: Iterator[Tensor]) -> tuple[float, Vectors]:
        """Return the sum of scalars, each freed before the next is computed, and its gradient in the layers' bases."""
        layers = self._runner.modules
        parameters = list(parameters_of(layers))
        totals = [torch.zeros_like(p) for p in parameters]
        value = 0.0
        with _requiring_gradients(parameters), torch.enable_grad():
            for part in parts:
                found = torch.autograd.grad(part, parameters, allow_unused=True)
                for total, gradient in zip(totals, found, strict=True):
                    if gradient is not None:
                        total += gradient
                value += float(part.detach())
        by_parameter = dict(zip(parameters, totals, strict=True))
        matrices = {
            layer.name: layer.as_matrix({name: by_parameter[p] for name, p in _own(layer).items()}) for layer in layers
        }
        return value, {
            name: self._curvature[name].basis.rotate(matrix[None].clone()) for name, matrix in matrices.items()
        }

    @contextmanager
    def _moved(self, X: Mapping[str, Tensor]) -> Iterator[None]:
        bases = {name: self._curvature[name].basis for name in X}
        with moved(self._runner.modules, {name: bases[name].rotate_back(x.clone())[0] for name, x in X.items()}):
            yield


@contextmanager
def moved(layers: Sequence[AttributedLayer], changes: Mapping[str, Tensor]) -> Iterator[None]:
    """Add a matrix to the weights of each layer inside the block; afterwards they are the same numbers as before.

    Args:
        layers: the layers.
        changes: what is added, [d_out, d_in], in the model's coordinates.
    """
    kept = {p: p.detach().clone() for p in parameters_of(layers)}
    try:
        with torch.no_grad():
            for layer in layers:
                for p, change in as_parameters(layer, changes[layer.name]).items():
                    p.add_(change)
        yield
    finally:
        with torch.no_grad():
            for p, before in kept.items():
                p.copy_(before)


def as_parameters(layer: AttributedLayer, matrix: Tensor) -> dict[nn.Parameter, Tensor]:
    """Return a layer's matrix as its module's parameters have it; of numbers that are in no matrix, zero.

    `as_matrix` picks and places numbers, so that its adjoint puts each back where it came from.
    """
    own = _own(layer)
    like = {name: torch.zeros_like(p) for name, p in own.items()}
    adjoint: Callable[[Tensor], tuple[dict[str, Tensor]]] = torch.func.vjp(layer.as_matrix, like)[1]
    (placed,) = adjoint(matrix.to(next(iter(like.values()))))
    return {own[name]: value for name, value in placed.items()}


def parameters_of(layers: Sequence[AttributedLayer]) -> dict[nn.Parameter, None]:
    """Return the parameters that hold the layers' matrices, each once."""
    return {p: None for layer in layers for p in _own(layer).values()}


def _own(layer: AttributedLayer) -> dict[str, nn.Parameter]:
    return dict(layer.module.named_parameters(recurse=False))


@contextmanager
def _requiring_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    for p in parameters:
        p.requires_grad = True
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad = False
