"""The hooks, all of them: they pass each attributed layer's input and output gradient to a consumer, layer by layer.

Autograd never computes a weight's gradient. The parameters are frozen, and the output of each attributed layer is made
to require a gradient. So a backward pass computes only the gradients of activations, and none below the first of those
layers: it costs less than half of a usual one. The layer's rule knows what a module's tensors mean.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from influence_assets.errors import InputError
from influence_assets.maths.gradient_terms import GradientTerms
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.models.layers.rule import LOGITS, MODULES_KEY, AttributedLayer, Handle, Observe

Consumer = Callable[[AttributedLayer, GradientTerms], None]
"""Called once for each layer in a backward pass with what its gradients are the sum of."""


class LayerTap:
    """A context in which every backward pass within `consuming` calls the consumer once for each layer.

    The consumer gets a layer as soon as its gradient exists, of all places where its matrix is used; the layer's
    activations are freed right after. Values have the dtype of sums: float32 for passes in float32 and bfloat16,
    float64 for passes in float64.
    """

    def __init__(self, layers: Sequence[AttributedLayer]) -> None:
        self._layers = layers
        self._consume: Consumer | None = None
        self._handles: list[Handle] = []
        self._shape = (0, 0)
        self._forwarded: set[tuple[str, str]] = set()
        self._consumed: set[str] = set()
        self._arrived: dict[str, dict[str, GradientTerms]] = {}
        self.input_bytes = 0

    @property
    def needs_logits(self) -> bool:
        """Whether a layer is the output head: then passes that do not run it pass its terms to `bring_logits`."""
        return any(LOGITS in layer.rule.sides(layer.module) for layer in self._layers)

    def __enter__(self) -> Self:
        for layer in self._layers:
            for side in layer.rule.sides(layer.module):
                self._handles.append(layer.rule.attach_side(layer.module, side, self._observer(layer, side)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def start(self, tokens: Tensor) -> None:
        """Prepare for the next forward pass; call it before each.

        Args:
            tokens: the next batch, [sequence, token].
        """
        self._shape = (tokens.shape[0], tokens.shape[1])
        self._forwarded.clear()
        self.input_bytes = 0

    @contextmanager
    def consuming(self, consume: Consumer) -> Iterator[None]:
        """Pass the layers of a backward pass in the block to `consume`.

        Raises:
            InputError: a layer took no part in the pass; scores without it would silently be too small.
        """
        self._consume = consume
        self._consumed.clear()
        self._arrived.clear()
        yield
        self._consume = None
        self._arrived.clear()
        idle = [layer.name for layer in self._layers if layer.name not in self._consumed]
        if idle:
            raise InputError(MODULES_KEY, f"{', '.join(idle[:5])} took no part in the pass", "Leave these modules out.")

    def bring_logits(self, terms: GradientTerms) -> None:
        """Add what layers that are the output head have there; within `consuming`, before the backward pass."""
        for layer in self._layers:
            if LOGITS in layer.rule.sides(layer.module):
                self._arrive(layer, LOGITS, terms)

    def _observer(self, layer: AttributedLayer, side: str) -> Observe:
        def observe(x: Tensor, output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return output
            if (layer.name, side) in self._forwarded:
                raise InputError(
                    MODULES_KEY,
                    f"{layer.name} is called more than once in a pass",
                    "Leave it out: the curvature of a reused layer is not a Kronecker product.",
                )
            self._forwarded.add((layer.name, side))
            inputs = x.detach()
            if not layer.rule.sees_selections:  # those are laid out when they are used, because they take less memory
                inputs = self._by_sequence(layer, inputs)
            self.input_bytes += inputs.numel() * inputs.element_size()
            return tapped(output, lambda gradient: self._backward(layer, side, inputs, gradient))

        return observe

    def _by_sequence(self, layer: AttributedLayer, values: Tensor) -> Tensor:
        laid_out = layer.rule.by_sequence(layer.module, values, self._shape)
        if laid_out is None:
            raise InputError(
                MODULES_KEY,
                f"{layer.name} does not see the tokens of whole sequences in their order: its input or output is "
                f"{list(values.shape)} for {self._shape[0]} sequences of {self._shape[1]} tokens",
                "Leave it out of the patterns.",
            )
        return laid_out

    def _backward(self, layer: AttributedLayer, side: str, x: Tensor, gradient: Tensor) -> None:
        if layer.rule.sees_selections:
            x = self._by_sequence(layer, x)
        dtype = accumulation_dtype(gradient.dtype)
        laid_out = self._by_sequence(layer, gradient.detach()).to(dtype)
        # The inputs of embeddings are ids, which stay integers.
        x = x.to(dtype) if x.is_floating_point() else x
        self._arrive(layer, side, layer.rule.terms(layer.module, side, x, laid_out))

    def _arrive(self, layer: AttributedLayer, side: str, terms: GradientTerms) -> None:
        """Pass a layer to the consumer once the terms of all its sides are there."""
        assert self._consume is not None  # noqa: S101  # backward passes run within `consuming`
        arrived, sides = self._arrived.setdefault(layer.name, {}), layer.rule.sides(layer.module)
        arrived[side] = terms
        if len(arrived) == len(sides):
            del self._arrived[layer.name]
            self._consumed.add(layer.name)
            self._consume(layer, layer.rule.summed([arrived[side] for side in sides]))


@contextmanager
def inputs_of_head(head: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, every forward pass adds what goes into the model's head, [sequence, token, width], to the list.

    Only the last position goes on into the head: the logits of all are often the largest tensor of a pass.
    """
    seen: list[Tensor] = []

    def observe(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0].detach())
        return inputs[0][:, -1:], *inputs[1:]

    handle = head.register_forward_pre_hook(observe)
    try:
        yield seen
    finally:
        handle.remove()


def tapped(output: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor:
    """Return a layer's output, such that a backward pass calls the function with the gradient at it."""
    anchor = torch.zeros((), requires_grad=True)
    result: Tensor = _Tapped.apply(output, anchor, on_gradient)  # type: ignore[no-untyped-call]
    return result


class _Tapped(torch.autograd.Function):
    """The identity, which calls a function with the gradient in the backward pass.

    The result shares its memory with the output without being a view of it, so that the model may change it in place,
    as some models clip what a layer computes. It requires a gradient because the anchor does.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, on_gradient: Callable[[Tensor], None]) -> Tensor:  # noqa: ARG004
        ctx.on_gradient = on_gradient
        return output.data

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        ctx.on_gradient(gradient)
        return gradient, None, None
