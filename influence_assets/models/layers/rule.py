"""The contract of layer rules: how one kind of module is seen as a matrix that multiplies tokens.

Everything that is measured of a layer is made of two tensors, its input a [sequence, token, d_in] and the gradient Ds
[sequence, token, d_out] of the loss at its output, such that the gradient of a sequence is G = Σ_t Ds_t a_tᵀ. A
rule says how a module's own tensors become these two. A module that is a view of tokens laid end to end overrides
`by_sequence`; one that sees only some tokens gives zeros for the others; one that holds several matrices lists them in
`layers`. What a rule makes of a module is exact: a test compares G with the gradients that autograd computes.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from influence_assets.errors import InputError
from influence_assets.extensions import discover, extension_folders

KEY = "curvature.modules"
"""The key of the study that names the attributed layers."""

See = Callable[[Tensor, Tensor], None]
"""Called in every forward pass with a layer's input and output."""


class Handle(Protocol):
    """What undoes an attachment to a module."""

    def remove(self) -> None:
        """Detach."""
        ...


class FrozenMap(NamedTuple):
    """A module's whole computation as y = x · matrix + bias."""

    matrix: Float[Tensor, "width d_out"]
    bias: Float[Tensor, " d_out"] | None


class LayerRule(ABC):
    """How modules of one kind are seen as matrices. A rule holds no state of its own."""

    name: str
    """Unique among the rules."""

    @abstractmethod
    def covers(self, module: nn.Module) -> bool:
        """Return whether the rule is exact for the module. A subclass of a covered class may compute something else."""

    @abstractmethod
    def widths(self, module: nn.Module) -> tuple[int, int]:
        """Return d_out and d_in of the matrix, the column of a bias included."""

    @abstractmethod
    def inputs(
        self, module: nn.Module, x: Shaped[Tensor, "sequence token width"]
    ) -> Float[Tensor, "sequence token d_in"]:
        """Return a: the module's input by sequence, with a column of ones where there is a bias."""

    @abstractmethod
    def as_matrix(self, module: nn.Module, gradients: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        """Return gradients of the module's own parameters, given by name, as the matrix that G is."""

    def output_gradients(
        self,
        module: nn.Module,  # noqa: ARG002
        gradient: Float[Tensor, "sequence token width"],
    ) -> Float[Tensor, "sequence token d_out"]:
        """Return Ds: by default the gradient at the module's output, laid out by sequence."""
        return gradient

    def by_sequence(
        self,
        module: nn.Module,  # noqa: ARG002
        values: Shaped[Tensor, "*token width"],
        shape: tuple[int, int],
    ) -> Shaped[Tensor, "sequence token width"] | None:
        """Return the module's input, or the gradient at its output, laid out by sequence and token.

        Args:
            module: covered by the rule.
            values: as the module has them.
            shape: sequences and tokens of the batch.

        Returns:
            None where the values do not belong to the tokens of whole sequences, so that the module is refused.
        """
        return values if values.ndim == 3 and values.shape[:2] == shape else None

    def attach(self, module: nn.Module, see: See) -> Handle:
        """Have `see` called in every forward pass, with the output whose gradient Ds is made of."""
        return module.register_forward_hook(lambda _module, inputs, output: see(inputs[0], output))

    def layers(self, name: str, module: nn.Module) -> tuple["AttributedLayer", ...]:
        """Return the matrices that the module holds: by default one.

        Args:
            name: of the module in the model.
            module: covered by the rule.
        """
        return (AttributedLayer(name, module, self),)

    def frozen_map(self, module: nn.Module) -> FrozenMap | None:  # noqa: ARG002
        """Return the module's computation, if it is nothing but a product and a bias; None has its own forward run."""
        return None


@dataclass(frozen=True)
class AttributedLayer:
    """A matrix of the model whose gradients are measured.

    Args:
        name: as it stands in tables: that of the module, unless the module holds several matrices.
        module: the module, or a view of the part of it that holds this matrix.
        rule: how the module is seen as a matrix.
    """

    name: str
    module: nn.Module
    rule: LayerRule

    @property
    def output_width(self) -> int:
        """d_out."""
        return self.rule.widths(self.module)[0]

    @property
    def input_width(self) -> int:
        """d_in, the bias's column included."""
        return self.rule.widths(self.module)[1]

    @property
    def parameters(self) -> int:
        """Numbers in the matrix."""
        return self.input_width * self.output_width

    @property
    def device(self) -> torch.device:
        """The device of the weights, and of what is measured of the layer."""
        return next(self.module.parameters(recurse=False)).device

    def as_matrix(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        """Return gradients of the module's own parameters, given by name, as one matrix."""
        return self.rule.as_matrix(self.module, gradients)


def layer_rules() -> tuple[LayerRule, ...]:
    """Return every rule: the package's own, those of extension folders, and installed ones.

    Raises:
        InputError: a rule cannot be loaded, see `extensions.discover`.
    """
    return _discovered(tuple(extension_folders()), tuple(sys.path))


def rule_of(module: nn.Module) -> LayerRule | None:
    """Return the rule that covers a module, or None.

    Raises:
        InputError: more than one does.
    """
    covering = [rule for rule in layer_rules() if rule.covers(module)]
    if len(covering) > 1:
        names = " and ".join(rule.name for rule in covering)
        raise InputError(
            f"the layer rules {names}", f"both cover {type(module).__name__}", "Let each kind of layer have one rule."
        )
    return covering[0] if covering else None


def with_ones(x: Float[Tensor, "*token width"]) -> Float[Tensor, "*token d_in"]:
    """Return the input with a column of ones, which a bias multiplies."""
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)


def with_bias(
    weight: Float[Tensor, "d_out width"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "d_out d_in"]:
    """Return a weight's gradient with that of the bias, if there is one, as its last column."""
    return weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)


@lru_cache(maxsize=1)
def _discovered(folders: tuple[Path, ...], path: tuple[str, ...]) -> tuple[LayerRule, ...]:  # noqa: ARG001
    """Look for the rules anew where parts come from other places: every batch asks, and looking takes long."""
    rules = discover("influence_assets.models.layers", "LAYER_RULE", LayerRule)  # type: ignore[type-abstract]
    return tuple(rules.values())
