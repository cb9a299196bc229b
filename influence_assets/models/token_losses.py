"""The loss of every token as a function of a model's weights, for derivatives of any order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from influence_assets.models.training_run import IGNORED

Weights = Mapping[str, Tensor]

TokenLosses = Callable[[Weights, Int[Tensor, "sequence token"], Int[Tensor, "sequence token"]], Tensor]
"""Returns −log p of every label [sequence, token], in nats, where it is predicted from the tokens before; 0 where the
label is IGNORED, and for the first token."""


def token_losses(model: nn.Module) -> TokenLosses:
    """Return the token losses of a Hugging Face causal language model; of its weights, only the shapes matter.

    Args:
        model: the model, in the mode that it is trained in, without dropout.
    """

    def losses(weights: Weights, tokens: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(model, dict(weights), (tokens,), {"use_cache": False}).logits[:, :-1]
        of_targets = functional.cross_entropy(
            rearrange(logits, "sequence token word -> (sequence token) word"),
            rearrange(labels[:, 1:], "sequence token -> (sequence token)"),
            ignore_index=IGNORED,
            reduction="none",
        )
        return functional.pad(of_targets.view(len(tokens), -1), (1, 0))

    return losses


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Compute attention by its definition, because the fused kernels have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def loss_gradient(
    losses: TokenLosses, weights: Weights, batch: "tuple[Tensor, Tensor]", w: Float[Tensor, "sequence token"]
) -> dict[str, Tensor]:
    """Return the gradient of Σ w · loss, as a function of `weights` and w that can be differentiated again.

    Args:
        losses: the losses.
        weights: leaves that require gradients.
        batch: tokens and labels.
        w: the weight of every token's loss.
    """
    total = (w * losses(weights, *batch)).sum()
    return dict(zip(weights, torch.autograd.grad(total, list(weights.values()), create_graph=True), strict=True))


def products_with_token_gradients(
    g: Mapping[str, Tensor], w: Tensor, vectors: Sequence[Mapping[str, Tensor]]
) -> Float[Tensor, "vector sequence token"]:
    """Return ⟨u, ∇loss⟩ of every vector u and token.

    The gradient g = Σ w ∇loss is linear in w, so that the derivative of ⟨u, g⟩ by w is the product.

    Args:
        g: the gradient, as `loss_gradient` returns it.
        w: its weights.
        vectors: each with an entry for each parameter.
    """
    rows = [torch.autograd.grad(list(g.values()), w, [u[name] for name in g], retain_graph=True)[0] for u in vectors]
    return torch.stack(rows) if rows else w.new_zeros(0, *w.shape)


def completion_gradients(
    losses: TokenLosses, weights: Weights, queries: tuple[Tensor, Tensor], *, create_graph: bool = False
) -> tuple[list[dict[str, Tensor]], Float[Tensor, " query"]]:
    """Return ∇f of each query, and f, the log-probability of its labels.

    Args:
        losses: the losses.
        weights: leaves that require gradients.
        queries: tokens and labels, of which those of the prompts are IGNORED.
        create_graph: whether the gradients are to be differentiated again.
    """
    f = -losses(weights, *queries).sum(1)
    leaves = list(weights.values())
    gradients = [
        dict(zip(weights, torch.autograd.grad(each, leaves, retain_graph=True, create_graph=create_graph), strict=True))
        for each in f
    ]
    return gradients, f.detach()


def leaves_of(weights: Weights) -> dict[str, Tensor]:
    """Return copies of the references to weights, which require gradients."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}
