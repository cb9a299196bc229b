"""A rehearsal of a model on a few tokens, before the corpus is read: is it causal, and can its layers be attributed?

Influence functions need a model whose log-likelihood of a token depends on nothing after it, a loss of each sequence
that does not depend on its neighbours in the batch, and layers of which it is known what they see of each sequence.
None of this can be read off a configuration, so it is tried.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from influence_assets.capture.hooks import tapped
from influence_assets.errors import InputError
from influence_assets.maths.ekfac import sequence_gradients
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.models.devices import input_device
from influence_assets.models.dimensions import embedding_rows
from influence_assets.models.layers.rule import MODULES_KEY, AttributedLayer, Observe
from influence_assets.models.layers.selection import listed, patterns_for

MODEL_KEY = "model.path"

TOKENS = 7
"""Tokens of a rehearsed sequence; not the number of sequences, which would hide a layer that swaps both axes."""

SHORTER = 4
"""Tokens of the beginning of a rehearsed sequence."""

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1}
"""The largest difference that is rounding, relative to the largest value: batches are multiplied in another order. Some
models compute parts in float32 whatever their precision."""


REACH = 1e-6
"""The largest gradient at a later token's embedding that counts as none, relative to the others."""


@dataclass
class _Seen:
    """What a layer saw in one pass.

    Args:
        calls: how often it was called.
        inputs: its input laid out by sequence; None if it cannot be.
        shape: the shape of its input.
        gradient: the gradient at its output.
        is_exact: whether the gradient of its matrix is what autograd says; None if autograd says nothing.
    """

    calls: int
    inputs: Tensor | None
    shape: list[int]
    gradient: Tensor | None = None
    is_exact: bool | None = None


def rehearse(model: PreTrainedModel, layers: Sequence[AttributedLayer]) -> None:
    """Run two short sequences through the model, together and alone.

    Args:
        model: the frozen model.
        layers: the attributed layers.

    Raises:
        InputError: the model is not causal; a sequence's log-likelihood depends on its neighbours; or a layer does not
            take part in the pass, is called more than once, or sees something else than the tokens of its sequence.
    """
    tokens = _tokens(model)
    with torch.no_grad():
        changed = tokens[:1].clone()
        changed[0, -1] = tokens[1, -1]
        logits = _logits(model, tokens[:1])
        shorter = _logits(model, tokens[:1, :SHORTER])
        _refuse_not_causal(model, logits, _logits(model, changed), shorter, _reach_of_the_last(model, tokens[:1]))
        with _watching(layers, tokens[:1]) as alone:
            watched = _logits(model, tokens[:1])
    if not _are_close(watched, logits):
        raise InputError(
            MODULES_KEY,
            f"{type(model).__name__} computes something else while its layers are measured",
            "Update transformers, or name fewer layers.",
        )
    with torch.enable_grad(), _watching(layers, tokens) as together, _differentiated(layers, together):
        batched = _logits(model, tokens)
        weights = torch.linspace(-1, 1, batched.numel(), device=batched.device).view_as(batched)
        if batched.requires_grad:
            (batched * weights).sum().backward()  # type: ignore[no-untyped-call]
    if not _are_close(batched[:1].detach(), logits):
        raise InputError(
            MODEL_KEY,
            f"what {type(model).__name__} says about a sequence depends on the other sequences of its batch",
            "Set compute.batch_sequences to 1, or use a model whose sequences do not see each other.",
        )
    _refuse_layers(model, layers, alone, together)


def _tokens(model: PreTrainedModel) -> Tensor:
    """Return two sequences that differ at every position."""
    first = torch.arange(1, TOKENS + 1)
    tokens = torch.stack([first, first + TOKENS]) % embedding_rows(model)
    return tokens.to(input_device(model))


def _logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def _are_close(found: Tensor, expected: Tensor, *, tolerance: float | None = None) -> bool:
    if found.shape != expected.shape:
        return False
    allowed = TOLERANCE.get(expected.dtype, TOLERANCE[torch.float32]) if tolerance is None else tolerance
    return bool((found - expected).abs().max() <= allowed * expected.abs().max())


def _reach_of_the_last(model: PreTrainedModel, tokens: Tensor) -> float:
    """Return how much what is said before the last token depends on its embedding, relative to the other tokens'.

    In a causal model this is exactly zero in any precision, while a change of values could be lost in rounding.
    """
    reached: list[Tensor] = []
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, _inputs, output: tapped(output, reached.append))
    try:
        with torch.enable_grad():
            before = _logits(model, tokens)[:, :-1]
            if before.requires_grad:
                (before * torch.linspace(-1, 1, before.numel()).to(before).view_as(before)).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        handle.remove()
    if not reached or reached[0].shape[:2] != tokens.shape:
        return 0.0
    gradient = reached[0][0].abs()
    return float(gradient[-1].max() / gradient.max().clamp_min(torch.finfo(gradient.dtype).tiny))


def _refuse_not_causal(model: PreTrainedModel, logits: Tensor, changed: Tensor, shorter: Tensor, reach: float) -> None:
    """Raise if another last token, or that there is one at all, changes what the model says before it."""
    # The same shapes go through the same kernels, so that hardly anything is rounded differently.
    rounding = 4 * torch.finfo(logits.dtype).eps
    is_causal = reach < REACH and _are_close(changed[:, :-1], logits[:, :-1], tolerance=rounding)
    if not is_causal or not _are_close(shorter, logits[:, :SHORTER]):
        raise InputError(
            MODEL_KEY,
            f"{type(model).__name__} is not causal: what it says about a token changes with the tokens after it",
            "Use a causal language model; for models like BERT, config.json says `is_decoder: true` if it is one.",
        )


@contextmanager
def _watching(layers: Sequence[AttributedLayer], tokens: Tensor) -> Iterator[Mapping[str, _Seen]]:
    """Fill the mapping with what each layer sees in the pass within the block."""
    seen: dict[str, _Seen] = {}
    shape = (tokens.shape[0], tokens.shape[1])

    def observer(layer: AttributedLayer) -> Observe:
        def observe(x: Tensor, output: Tensor) -> Tensor:
            laid_out = layer.rule.by_sequence(layer.module, x.detach(), shape)
            if laid_out is not None and layer.rule.by_sequence(layer.module, output.detach(), shape) is None:
                laid_out = None
            calls = seen[layer.name].calls + 1 if layer.name in seen else 1
            seen[layer.name] = _Seen(calls, laid_out, list(x.shape))
            return tapped(output, partial(setattr, seen[layer.name], "gradient")) if torch.is_grad_enabled() else output

        return observe

    handles = [layer.rule.attach(layer.module, observer(layer)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiated(layers: Sequence[AttributedLayer], seen: Mapping[str, _Seen]) -> Iterator[None]:
    """Compare each layer's gradient with that of autograd in the backward pass within the block.

    A layer is compared as soon as all its parameters have their gradients, which are freed right after.
    """
    users: dict[nn.Parameter, list[AttributedLayer]] = defaultdict(list)
    for layer in layers:
        for parameter in layer.module.parameters(recurse=False):
            users[parameter].append(layer)
    for parameter in users:
        parameter.requires_grad = True
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda p: _compare(users[p], seen))  # type: ignore[no-untyped-call]
        for parameter in users
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in users:
            parameter.requires_grad = False
            parameter.grad = None


def _compare(layers: Sequence[AttributedLayer], seen: Mapping[str, _Seen]) -> None:
    """Compare the gradients of those layers all of whose parameters have theirs, and free these."""
    gradients = {layer.name: {name: p.grad for name, p in _own(layer).items()} for layer in layers}
    ready = [layer for layer in layers if all(g is not None for g in gradients[layer.name].values())]
    for layer in ready:
        if layer.name in seen:
            own = {name: g for name, g in gradients[layer.name].items() if g is not None}
            seen[layer.name].is_exact = _is_exact(layer, seen[layer.name], own)
    for layer in ready:
        for p in _own(layer).values():
            p.grad = None


def _own(layer: AttributedLayer) -> dict[str, nn.Parameter]:
    return dict(layer.module.named_parameters(recurse=False))


def _is_exact(layer: AttributedLayer, seen: _Seen, gradients: Mapping[str, Tensor]) -> bool | None:
    """Return whether G is the gradient that autograd computed for the layer's parameters."""
    if seen.inputs is None or seen.gradient is None:
        return None
    rule, module, x = layer.rule, layer.module, seen.inputs
    laid_out = rule.by_sequence(module, seen.gradient, (x.shape[0], x.shape[1]))
    if laid_out is None:
        return None
    dtype = accumulation_dtype(seen.gradient.dtype)
    a = rule.inputs(module, x.to(dtype) if x.is_floating_point() else x).to(dtype)
    G = sequence_gradients(rule.output_gradients(module, laid_out.to(dtype)), a).sum(0)
    return _are_close(G.to(gradients["weight"].dtype) if "weight" in gradients else G, layer.as_matrix(gradients))


def _refuse_layers(
    model: PreTrainedModel,
    layers: Sequence[AttributedLayer],
    alone: Mapping[str, _Seen],
    together: Mapping[str, _Seen],
) -> None:
    """Raise if layers cannot be attributed, with the reason of each and patterns for those that can be."""
    refused: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        reason = _reason(layer.name, alone, together)
        if reason is not None:
            refused[reason].append(layer.name)
    if not refused:
        return
    names = {name for of_reason in refused.values() for name in of_reason}
    raise InputError(
        MODULES_KEY,
        "; ".join(f"{reason}: {listed(of_reason)}" for reason, of_reason in refused.items()),
        patterns_for(model, [layer.name for layer in layers if layer.name not in names], names),
    )


def _reason(name: str, alone: Mapping[str, _Seen], together: Mapping[str, _Seen]) -> str | None:
    if name not in together or name not in alone:
        return "not called in a pass"
    if together[name].gradient is None:
        return "of no effect on what the model says"
    first, both = alone[name], together[name]
    if both.calls > 1:
        return "called more than once in a pass, so that its curvature is not a Kronecker product"
    if first.inputs is None or both.inputs is None:
        shape = f"{both.shape} for 2 sequences of {TOKENS} tokens"
        return f"not called with the tokens of whole sequences in their order, but with {shape}"
    if not _are_close(both.inputs[:1], first.inputs):
        return "called with tokens of other sequences, or in another order"
    if not both.is_exact:
        return "of another gradient than autograd's, because its weights are used elsewhere too"
    return None
