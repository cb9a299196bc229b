"""What a model says about a token depends on: on no later token, and on no other sequence of the batch.

This is asked of gradients where they can tell, because they are exactly zero or not in any precision. Values are
rounded, otherwise in batches of another size: in bfloat16 a router sends tokens elsewhere, and pretrained models have a
few huge activations, beside which the rounding of the others grows. Running a sequence beside its own copy measures it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from influence_assets.capture.hooks import tapped
from influence_assets.errors import InputError
from influence_assets.models.devices import input_device
from influence_assets.models.dimensions import embedding_rows

MODEL_KEY = "model.path"

TOKENS = 7
"""Tokens of a rehearsed sequence; not the number of sequences, which would hide a layer that swaps both axes."""

BEGINNING = 4
"""Tokens of the beginning of a rehearsed sequence."""

TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-4, torch.bfloat16: 0.3}
"""The largest difference that is rounding in weights of this precision, relative to the values, as norms: batches are
multiplied in another order. Some models compute parts in float32 whatever their precision."""

LARGEST_ROUNDING = {torch.float64: 1e-5, torch.float32: 0.02, torch.bfloat16: 0.3}
"""A larger difference is not put down to rounding, however much of it a sequence beside its own copy has."""

ROUNDINGS = 10
"""By how many times another sequence may change more than the copy, and still be rounding alone."""

MASKED = 1e8
"""Logits beyond this are those of words that a model never says."""

REACH = 1e-6
"""The largest gradient that counts as none, relative to the others."""


def two_sequences(model: PreTrainedModel) -> Tensor:
    """Return two sequences that differ at every position, without the padding that some models look for."""
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    allowed = torch.tensor([token for token in range(1, embedding_rows(model)) if token != padding])
    first = torch.arange(TOKENS)
    tokens = allowed[torch.stack([first, first + TOKENS]) % len(allowed)]
    return tokens.to(input_device(model))


def spoken(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Return the logits, [sequence, token, word]."""
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def tolerance_of(model: PreTrainedModel) -> float:
    """Return the tolerance of the coarsest weights; whatever is computed later has seen values rounded to them."""
    return max(TOLERANCE[dtype] for dtype in _dtypes(model))


def rounding_in_batches(model: PreTrainedModel, sequence: Tensor, logits: Tensor) -> float:
    """Return how far the logits of a sequence, [1, token], beside its own copy are from its logits alone."""
    return difference(spoken(model, sequence.expand(2, -1))[:1], logits)


def tolerance_of_rounding(model: PreTrainedModel, rounding: float) -> float:
    """Return the tolerance of a model whose values are this far apart in batches of another size."""
    largest = max(LARGEST_ROUNDING[dtype] for dtype in _dtypes(model))
    return min(largest, max(tolerance_of(model), rounding))


def _dtypes(model: PreTrainedModel) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters()} & TOLERANCE.keys()


def difference(found: Tensor, expected: Tensor) -> float:
    """Return how far apart two tensors are, relative to the values, as norms; what is masked in either is infinite."""
    masked = expected.abs() > MASKED
    if found.shape != expected.shape or not torch.equal(found.abs() > MASKED, masked):
        return math.inf
    apart = (found - expected).masked_fill(masked, 0).norm()
    return float(apart / expected.masked_fill(masked, 0).norm().clamp_min(torch.finfo(expected.dtype).tiny))


def are_close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Return whether two tensors differ by rounding; what is masked with huge numbers must be so in both."""
    return difference(found, expected) <= tolerance


def refuse_not_causal(model: PreTrainedModel, tokens: Tensor) -> tuple[Tensor, float]:
    """Return the logits of the first sequence, computed alone, and the tolerance for batches of another size.

    Raises:
        InputError: what is said about a token depends on those after it, or is not a number.
    """
    first = tokens[:1]
    changed = first.clone()
    changed[0, -1] = tokens[1, -1]
    with torch.enable_grad(), embedded(model) as embeddings:
        logits = spoken(model, first)
        if not bool(logits.amax(-1).isfinite().all()):
            raise InputError(
                MODEL_KEY, f"what {type(model).__name__} says is not a number", "Set model.dtype to float32."
            )
        reached = reach(logits[:, :-1], embeddings, first)
    logits = logits.detach()
    with torch.no_grad():
        rounding = rounding_in_batches(model, first, logits)
        tolerance = tolerance_of_rounding(model, ROUNDINGS * rounding)
        is_causal = (
            is_within(reached, TOKENS - 1)
            # Of the same size, so that only experts, who see other selections, round otherwise.
            and are_close(spoken(model, changed)[:, :-1], logits[:, :-1], tolerance_of_rounding(model, rounding))
            and are_close(spoken(model, first[:, :BEGINNING]), logits[:, :BEGINNING], tolerance)
        )
    if not is_causal:
        raise InputError(
            MODEL_KEY,
            f"{type(model).__name__} is not causal: what it says about a token changes with the tokens after it",
            "Use a causal language model; for models like BERT, config.json says `is_decoder: true` if it is one.",
        )
    return logits, tolerance


def refuse_neighbours(
    model: PreTrainedModel, tokens: Tensor, logits: Tensor, tolerance: float, reached: Tensor | None
) -> None:
    """Raise if what is said about the first sequence depends on the second.

    Args:
        model: the model.
        tokens: two sequences.
        logits: the first one's, computed alone.
        tolerance: for what is computed in batches of another size.
        reached: how much the logits of its beginning depend on each token, [sequence, token].
    """
    with torch.no_grad():
        batched = spoken(model, tokens)[:1]
    if not are_close(batched, logits, tolerance) or not is_within(reached, TOKENS):
        raise InputError(
            MODEL_KEY,
            f"what {type(model).__name__} says about a sequence depends on the other sequences of its batch",
            "Set compute.batch_sequences to 1, or use a model whose sequences do not see each other.",
        )


@contextmanager
def embedded(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Fill the list with the tokens' embeddings in the passes within the block."""
    embeddings: list[Tensor] = []

    def observe(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        embeddings.append(tapped(output, lambda _gradient: None))
        return embeddings[-1]

    handle = model.get_input_embeddings().register_forward_hook(observe)
    try:
        yield embeddings
    finally:
        handle.remove()


def weighted(logits: Tensor) -> Tensor:
    """Return a number that depends on all of the logits, on each in its own way."""
    return (logits * torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits)).sum()


def reach(logits: Tensor, embeddings: Sequence[Tensor], tokens: Tensor) -> Tensor | None:
    """Return how much the logits depend on each token's embedding, [sequence, token]; None if that is not known."""
    if not logits.requires_grad or not embeddings or embeddings[0].shape[:2] != tokens.shape:
        return None
    (gradient,) = torch.autograd.grad(weighted(logits), embeddings[:1], retain_graph=True, allow_unused=True)
    return None if gradient is None else gradient.abs().amax(-1)


def is_within(reached: Tensor | None, last: int) -> bool:
    """Return whether nothing is reached but the first sequence's tokens before `last`, as far as is known."""
    if reached is None:
        return True
    others = reached.clone()
    others[0, :last] = 0
    return bool(others.max() <= REACH * reached.max())
