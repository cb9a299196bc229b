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
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

from influence_assets.capture.dependence import (
    BEGINNING,
    TOKENS,
    are_close,
    embedded,
    is_within,
    reach,
    refuse_neighbours,
    refuse_not_causal,
    spoken,
    tolerance_of,
    two_sequences,
    weighted,
)
from influence_assets.capture.hooks import tapped
from influence_assets.errors import InputError
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.models.layers.rule import MODULES_KEY, AttributedLayer, Observe
from influence_assets.models.layers.selection import listed, patterns_for


@dataclass
class _Seen:
    """What a layer saw in one pass, in one of the places where its matrix is used.

    Args:
        calls: how often it was called.
        inputs: its input laid out by sequence; None if it cannot be.
        shape: the shape of its input.
        gradient: the gradient at its output.
        of_beginning: the gradient of what is said about the first sequence's beginning.
    """

    calls: int
    inputs: Tensor | None
    shape: list[int]
    gradient: Tensor | None = None
    of_beginning: Tensor | None = None


_Sides = Mapping[tuple[str, str], _Seen]
"""What is seen by the name of each layer and side (`LayerRule.sides`)."""


def rehearse(model: PreTrainedModel, layers: Sequence[AttributedLayer]) -> None:
    """Run two short sequences through the model, together and alone.

    Args:
        model: the frozen model.
        layers: the attributed layers.

    Raises:
        InputError: the model is not causal; a sequence's log-likelihood depends on its neighbours; or a layer does not
            take part in the pass, is called more than once, or sees something else than the tokens of its sequence.
    """
    tokens = two_sequences(model)
    tolerance = tolerance_of(model)
    logits, tolerance_of_batches = refuse_not_causal(model, tokens)
    _refuse_changed(model, layers, tokens[:1], tolerance)
    with torch.enable_grad(), _watching(layers, tokens) as seen, _differentiated(layers, seen, tolerance) as exact:
        with embedded(model) as embeddings:
            together = spoken(model, tokens)
        of_beginning = reach(together[0, :BEGINNING], embeddings, tokens)
        for side in seen.values():
            side.of_beginning, side.gradient = side.gradient, None
        if together.requires_grad:
            weighted(together).backward()  # type: ignore[no-untyped-call]
    refuse_neighbours(model, tokens, logits, tolerance_of_batches, of_beginning)
    _refuse_layers(model, layers, seen, exact)


def _refuse_changed(
    model: PreTrainedModel, layers: Sequence[AttributedLayer], tokens: Tensor, tolerance: float
) -> None:
    """Raise if a module computes something else while its layers are measured, given the same inputs."""
    parameters = {p for layer in layers for p in layer.module.parameters(recurse=False)}
    calls: dict[nn.Module, tuple[Any, Any, Any]] = {}

    def keep(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        calls.setdefault(module, tree_map_only(Tensor, torch.clone, (inputs, named, output)))

    owners = [m for m in model.modules() if not parameters.isdisjoint(m.parameters(recurse=False))]
    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in owners]
    try:
        with torch.no_grad():
            spoken(model, tokens)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad(), _watching(layers, tokens):
        for module, (inputs, named, output) in calls.items():
            pairs = zip(tree_leaves(module(*inputs, **named)), tree_leaves(output), strict=True)
            if not all(are_close(a, b, tolerance) for a, b in pairs if isinstance(a, Tensor)):
                raise InputError(
                    MODULES_KEY,
                    f"{type(module).__name__} computes something else while its layers are measured",
                    "Update transformers, or leave out the layers that it holds.",
                )


@contextmanager
def _watching(layers: Sequence[AttributedLayer], tokens: Tensor) -> Iterator[_Sides]:
    """Fill the mapping with what each layer sees in the pass within the block."""
    seen: dict[tuple[str, str], _Seen] = {}
    shape = (tokens.shape[0], tokens.shape[1])

    def observer(layer: AttributedLayer, side: str) -> Observe:
        def observe(x: Tensor, output: Tensor) -> Tensor:
            laid_out = layer.rule.by_sequence(layer.module, x.detach(), shape)
            if laid_out is not None and layer.rule.by_sequence(layer.module, output.detach(), shape) is None:
                laid_out = None
            calls = seen[layer.name, side].calls + 1 if (layer.name, side) in seen else 1
            seen[layer.name, side] = here = _Seen(calls, laid_out, list(x.shape))
            return tapped(output, partial(setattr, here, "gradient")) if torch.is_grad_enabled() else output

        return observe

    handles = [
        layer.rule.attach_side(layer.module, side, observer(layer, side))
        for layer in layers
        for side in layer.rule.sides(layer.module)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiated(
    layers: Sequence[AttributedLayer], seen: _Sides, tolerance: float
) -> Iterator[Mapping[str, bool | None]]:
    """Fill the mapping with whether the gradient of each layer's matrix is what autograd says, in the backward pass.

    A layer is compared as soon as all its parameters have their gradients, which are freed right after.
    """
    exact: dict[str, bool | None] = {}
    users: dict[nn.Parameter, list[AttributedLayer]] = defaultdict(list)
    for layer in layers:
        for parameter in layer.module.parameters(recurse=False):
            users[parameter].append(layer)
    for parameter in users:
        parameter.requires_grad = True
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda p: exact.update(_compared(users[p], seen, tolerance)))  # type: ignore[no-untyped-call]
        for parameter in users
    ]
    try:
        yield exact
    finally:
        for handle in handles:
            handle.remove()
        for parameter in users:
            parameter.requires_grad = False
            parameter.grad = None


def _compared(layers: Sequence[AttributedLayer], seen: _Sides, tolerance: float) -> dict[str, bool | None]:
    """Compare the gradients of those layers all of whose parameters have theirs, and free these."""
    exact = {}
    gradients = {layer.name: {name: p.grad for name, p in _own(layer).items()} for layer in layers}
    ready = [layer for layer in layers if all(g is not None for g in gradients[layer.name].values())]
    for layer in ready:
        own = {name: g for name, g in gradients[layer.name].items() if g is not None}
        exact[layer.name] = _is_exact(layer, seen, own, tolerance)
    for layer in ready:
        for p in _own(layer).values():
            p.grad = None
    return exact


def _own(layer: AttributedLayer) -> dict[str, nn.Parameter]:
    return dict(layer.module.named_parameters(recurse=False))


def _is_exact(layer: AttributedLayer, seen: _Sides, gradients: Mapping[str, Tensor], tolerance: float) -> bool | None:
    """Return whether G is the gradient that autograd computed for the layer's parameters; None if G is not known."""
    rule, module, parts = layer.rule, layer.module, []
    for side in rule.sides(module):
        here = seen.get((layer.name, side))
        if here is None or here.inputs is None or here.gradient is None:
            return None
        x = here.inputs
        laid_out = rule.by_sequence(module, here.gradient, (x.shape[0], x.shape[1]))
        if laid_out is None:
            return None
        dtype = accumulation_dtype(here.gradient.dtype)
        parts.append(rule.terms(module, side, x.to(dtype) if x.is_floating_point() else x, laid_out.to(dtype)))
    G = rule.summed(parts).gradients().sum(0)
    return are_close(G, layer.as_matrix(gradients).to(G), tolerance)


def _refuse_layers(
    model: PreTrainedModel, layers: Sequence[AttributedLayer], seen: _Sides, exact: Mapping[str, bool | None]
) -> None:
    """Raise if layers cannot be attributed, with the reason of each and patterns for those that can be."""
    refused: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        sides = layer.rule.sides(layer.module)
        reasons = [_reason(layer, seen.get((layer.name, side))) for side in sides]
        if not any(reasons) and not exact.get(layer.name):
            reasons.append("of another gradient than autograd's, because its weights are used elsewhere too")
        reason = next(filter(None, reasons), None)
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


def _reason(layer: AttributedLayer, seen: _Seen | None) -> str | None:
    if seen is None:
        return "not called in a pass"
    if seen.gradient is None:
        return "of no effect on what the model says"
    if seen.calls > 1:
        return "called more than once in a pass, so that its curvature is not a Kronecker product"
    if seen.inputs is None:
        shape = f"{seen.shape} for 2 sequences of {TOKENS} tokens"
        return f"not called with the tokens of whole sequences in their order, but with {shape}"
    if seen.of_beginning is not None:
        laid_out = layer.rule.by_sequence(layer.module, seen.of_beginning, (2, TOKENS))
        if laid_out is None or not is_within(laid_out.abs().amax(-1), BEGINNING):
            return "called with tokens of other sequences, or in another order"
    return None
