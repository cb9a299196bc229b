"""Representer points: a logit as a sum over training points (Yeh et al. 2018, Theorem 3.1).

The last linear map is fitted again, with decay, to what the model itself says of its training points:

    J(W) = (1/n) Σ_i ℓ_i(W f_i) + λ‖W‖²,   ℓ_i(Φ) = −Σ_v p_iv log softmax(Φ)_v,   p_i = softmax(W₀ f_i),

with W₀ the model's head and f_i the hidden state that predicts token i. Where ∇J = 0,

    W = Σ_i α_i f_iᵀ,   α_i = −(1/2λn) ∂ℓ_i/∂Φ = (p_i − softmax(W f_i)) / (2λn),

so that the logit of word y at another state f is Σ_i α_iy f_iᵀf, and α_iy f_iᵀf is what training token i adds to it.
As Σ_v α_iv = 0, logits are relative to their mean over the vocabulary. W differs from Σ_i α_i f_iᵀ by ∇J / 2λ, which
is how exactness is measured.

J is strictly convex. W is found by Newton's method with inexact steps (Eisenstat & Walker 1994; Nocedal & Wright 2006,
Sec. 11.2), each by conjugate gradients and judged by the norm of ∇J, which keeps its digits where J itself has none
left. Nothing of the size of tokens × vocabulary is stored: softmaxes are computed a few tokens at a time, whenever they
are needed. A head with a bias has it as a last column of W, and states then end with a 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from influence_assets.maths.points import QueryPoints, States, TrainingPoints
from influence_assets.maths.solvers import Vectors, conjugate_gradients

Heads = tuple[Float[Tensor, "word width"], Float[Tensor, "word width"]]
"""W, and W₀."""

_LOGITS_AT_ONCE = {"cpu": 2**19}
_LOGITS_AT_ONCE_ON_DEVICE = 2**26
"""How many logits are computed at once: 4 MiB in float64 stay in a processor's cache; a GPU needs large products."""

_STEPS, _PRODUCTS, _HALVINGS = 100, 200, 30

_LEAST_PROGRESS = 1e-4


@dataclass(frozen=True)
class Refit:
    """The last linear map, fitted again.

    Args:
        weight: W.
        error: ‖W − Σ_i α_i f_iᵀ‖ / ‖W‖.
        steps: the steps that Newton's method took.
        products: how often the states of all tokens were gone over: ∇J or a product with J's second derivative each.
    """

    weight: Float[Tensor, "word width"]
    error: float
    steps: int
    products: int


def refitted_head(
    states: States, head: Float[Tensor, "word width"], decay: float, *, tolerance: float = 1e-10
) -> Refit:
    """Return the W at which ∇J = 0, in the head's precision.

    Args:
        states: yields the states of the training tokens.
        head: W₀, where the search begins.
        decay: λ.
        tolerance: the largest relative difference between W and Σ_i α_i f_iᵀ.

    Raises:
        ArithmeticError: that is not reached, because it is below what the head's precision allows.
    """
    objective = _Objective(states, head, decay)
    W, g = head, objective.gradient(head)
    for step in range(_STEPS):
        error = float(g.norm() / (2 * decay * W.norm()))
        if error <= tolerance:
            return Refit(W, error, step, objective.products)
        found = objective.improved(W, g)
        if found is None:
            break
        W, g = found
    raise ArithmeticError(f"the refitted head is only stationary to {error:.1e}, not to {tolerance:.1e}")


def values_of_parts(
    training: TrainingPoints, asked: QueryPoints, heads: Heads, decay: float
) -> Float[Tensor, "query part"]:
    """Return Σ α_iy f_iᵀf over the tokens i of each part and the tokens (f, y) of each query, in logits.

    Args:
        training: the training tokens.
        asked: the tokens of the queries' completions.
        heads: W, and W₀.
        decay: λ.
    """
    W, W0 = heads
    F, labels, queries = (each.to(W.device) for each in (asked.states.to(W.dtype), asked.labels, asked.queries))
    parts = training.parts.to(W.device)
    words, column = torch.unique(labels, return_inverse=True)
    values = W.new_zeros(asked.query_count, training.part_count)
    done = 0
    for f in _rows(training.states, W):
        α = (_softmax(f, W0)[:, words] - _softmax(f, W)[:, words]) / (2 * decay * len(training))
        of_queries = f.new_zeros(len(f), asked.query_count).index_add_(1, queries, α[:, column] * (f @ F.T))
        values.index_add_(1, parts[done : done + len(f)], of_queries.T)
        done += len(f)
    if done != len(training):
        raise ValueError(f"there are {len(training)} tokens and {done} states")
    return values


def logits(asked: QueryPoints, W: Float[Tensor, "word width"]) -> Float[Tensor, " query"]:
    """Return the sum of W's logits of each query's tokens, which the values of all training tokens sum to."""
    labels, queries = asked.labels.to(W.device), asked.queries.to(W.device)
    of_tokens = (asked.states.to(W) * W[labels]).sum(1)
    return W.new_zeros(asked.query_count).index_add_(0, queries, of_tokens)


class _Objective:
    """J, by its derivatives.

    Args:
        states: yields the states of the training tokens.
        head: W₀.
        decay: λ.
    """

    def __init__(self, states: States, head: Float[Tensor, "word width"], decay: float) -> None:
        self._states = states
        self._decay = decay
        self.products = 1
        self._targets, self._inverse = self._of_targets(head)

    def gradient(self, W: Float[Tensor, "word width"]) -> Float[Tensor, "word width"]:
        """Return ∇J = (1/n) Σ_i (softmax(W f_i) − p_i) f_iᵀ + 2λW."""
        self.products += 1
        total, n = torch.zeros_like(W), 0
        for f in _rows(self._states, W):
            total.addmm_(_softmax(f, W).T, f)
            n += len(f)
        return total / n - self._targets + 2 * self._decay * W

    def curved(self, W: Float[Tensor, "word width"], X: Float[Tensor, "word width"]) -> Float[Tensor, "word width"]:
        """Return the second derivative of J at W, applied to X: (1/n) Σ_i (diag s − s sᵀ) X f_i f_iᵀ + 2λX."""
        self.products += 1
        total, n = torch.zeros_like(W), 0
        for f in _rows(self._states, W):
            s, moved = _softmax(f, W), f @ X.T
            moved -= (s * moved).sum(1, keepdim=True)
            total.addmm_((s * moved).T, f)
            n += len(f)
        return total / n + 2 * self._decay * X

    def improved(self, W: Tensor, g: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return a W with a smaller ∇J, and that; None if rounding leaves nothing to improve."""
        before = float(g.norm())
        # The closer, the more exact, so that the last steps converge faster than linearly.
        forcing = min(0.5, (before / (2 * self._decay * float(W.norm()))) ** 0.5)

        def apply(X: Vectors) -> Vectors:
            return {"head": self.curved(W, X["head"][0])[None]}

        direction = conjugate_gradients(apply, self._precondition, {"head": -g[None]}, _PRODUCTS, stop_below=forcing)
        step = direction["head"][0]
        for _ in range(_HALVINGS):
            moved = W + step
            after = self.gradient(moved)
            if float(after.norm()) <= (1 - _LEAST_PROGRESS) * before:
                return moved, after
            step = step / 2
        return None

    def _of_targets(self, head: Float[Tensor, "word width"]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return (1/n) Σ_i p_i f_iᵀ, and what preconditions.

        That is eigenvectors Q of E[f fᵀ] and the eigenvalues that a word's curvature has in them, about s̄_v Λ + 2λ with
        s̄_v the mean of p_v (1 − p_v) over all tokens.
        """
        words, width = head.shape
        A, total, n = head.new_zeros(width, width), head.new_zeros(words), 0
        targets = torch.zeros_like(head)
        for f in _rows(self._states, head):
            p = _softmax(f, head)
            A.addmm_(f.T, f)
            targets.addmm_(p.T, f)
            total += (p * (1 - p)).sum(0)
            n += len(f)
        if not n:
            raise ArithmeticError("there are no tokens to fit the head to")
        Λ, Q = torch.linalg.eigh(A / n)
        return targets / n, (Q, torch.outer(total / n, Λ.clamp(min=0)) + 2 * self._decay)

    def _precondition(self, X: Vectors) -> Vectors:
        Q, eigenvalues = self._inverse
        return {"head": (X["head"] @ Q / eigenvalues) @ Q.T}


def _rows(states: States, W: Float[Tensor, "word width"]) -> Iterator[Float[Tensor, "_ width"]]:
    """Yield the states in W's precision and on its device, as many at a time as `_LOGITS_AT_ONCE` allows."""
    at_once = max(1, _LOGITS_AT_ONCE.get(W.device.type, _LOGITS_AT_ONCE_ON_DEVICE) // len(W))
    for block in states():
        for rows in torch.split(block, at_once):
            yield rows.to(W)


def _softmax(f: Float[Tensor, "row width"], W: Float[Tensor, "word width"]) -> Float[Tensor, "row word"]:
    return (f @ W.T).softmax(1)
