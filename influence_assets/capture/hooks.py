"""The one place with hooks: hands each linear layer's input and output gradient to a consumer, layer by layer.

No weight gradient is ever asked of autograd. The parameters are frozen, and the output of each attributed layer
requires a gradient, so that a backward pass computes the gradients of activations alone, and none below the first of
those layers: forward plus less than half a backward.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from influence_assets.errors import InputError
from influence_assets.maths.notation import accumulation_dtype
from influence_assets.models.layers.rule import LinearModule
from influence_assets.models.layers.selection import KEY

Consumer = Callable[[LinearModule, Tensor, Tensor], None]
"""Called once for each layer in a backward pass with a [sequence, token, d_in] and Ds [sequence, token, d_out]."""


class LayerTap:
    """While entered, every backward pass within `consuming` calls its consumer once for each of the modules.

    A consumer sees a layer as soon as its gradient exists and the layer's activations are freed right after. What it
    sees is in the dtype that sums are kept in: float32 for passes in float32 and bfloat16, float64 for float64.
    """

    def __init__(self, modules: Sequence[LinearModule]) -> None:
        self._modules = modules
        self._consume: Consumer | None = None
        self._handles: list[RemovableHandle] = []
        self._forwarded: set[str] = set()
        self._consumed: set[str] = set()

    def __enter__(self) -> Self:
        for linear in self._modules:
            self._handles.append(linear.module.register_forward_hook(self._forward_hook(linear)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def start(self) -> None:
        """Forget the last pass; call before each forward."""
        self._forwarded.clear()

    @contextmanager
    def consuming(self, consume: Consumer) -> Iterator[None]:
        """A backward pass within hands its layers to `consume`.

        Raises:
            InputError: a module took no part, so that a score without it would be silently too small.
        """
        self._consume = consume
        self._consumed.clear()
        yield
        self._consume = None
        idle = [linear.name for linear in self._modules if linear.name not in self._consumed]
        if idle:
            raise InputError(KEY, f"{', '.join(idle[:5])} took no part in the pass", "Leave these modules out.")

    def _forward_hook(self, linear: LinearModule) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            output.requires_grad_()
            if linear.name in self._forwarded:
                raise InputError(
                    KEY,
                    f"{linear.name} is called more than once in a pass",
                    "Leave it out: the curvature of a reused layer is not a Kronecker product.",
                )
            self._forwarded.add(linear.name)
            x = inputs[0].detach()
            if x.ndim != 3:
                raise InputError(
                    KEY,
                    f"{linear.name} does not see whole sequences (its input has {x.ndim} axes)",
                    "Leave it out: layers that see a selection of tokens cannot be attributed.",
                )
            output.register_hook(lambda gradient: self._backward(linear, x, gradient))  # type: ignore[no-untyped-call]

        return hook

    def _backward(self, linear: LinearModule, x: Tensor, gradient: Tensor) -> None:
        assert self._consume is not None  # noqa: S101  # backward passes run within `consuming`
        self._consumed.add(linear.name)
        dtype = accumulation_dtype(x.dtype)
        self._consume(linear, linear.input_with_bias(x.to(dtype)), gradient.detach().to(dtype))
