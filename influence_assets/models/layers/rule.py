"""The contract of layer rules: how to treat one kind of module as a matrix that multiplies tokens.

Measurements of a linear layer use two tensors, its input a [sequence, token, d_in] and the gradient Ds
[sequence, token, d_out] of the summed loss at its output, such that the gradient of a sequence is G = Σ_t Ds_t a_tᵀ. A
rule computes these two from a module's own tensors. Rules for modules that see all tokens end to end override
`by_sequence`; rules for modules that see only some tokens return zeros for the others; rules for modules that hold
several matrices list them in `layers`. A matrix that is no linear layer, or is used in several places of the model,
has a rule with `terms` and `sides` of its own (`embedding.py`). Rules must be exact:
`tests/extension/test_layer_rules.py` compares G with the gradients that autograd computes, and `capture.rehearsal`
refuses a model whose modules do not see what the rule says.

A rule's code is in no data version: whoever changes its formulas removes what was computed with it. One rule covers a
class of modules, and it sees the module alone, not its name or place in the model.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from influence_assets.errors import InputError
from influence_assets.extensions import discover, extension_folders
from influence_assets.maths.gradient_terms import GradientTerms, TokenTerms
from influence_assets.maths.rows import OutputSide

MODULES_KEY = "curvature.modules"
"""The key of the study that names the attributed layers."""

Observe = Callable[[Tensor, Tensor], Tensor]
"""Called in every forward pass with a layer's input and output. The model must go on with the output that it returns,
which has the same values: only then is the gradient at the layer's output seen."""

OUTPUT = "output"
"""The place in the model at which a module's output is observed."""

LOGITS = "logits"
"""The place where a matrix is the output head. Passes that never compute all logits bring its terms themselves."""


class Handle(Protocol):
    """A handle that undoes an attachment to a module."""

    def remove(self) -> None:
        """Undo the attachment."""
        ...


class FrozenMap(NamedTuple):
    """A module's whole computation as y = x · matrix + bias."""

    matrix: Float[Tensor, "width d_out"]
    bias: Float[Tensor, " d_out"] | None


class LayerRule(ABC):
    """A rule that treats modules of one kind as matrices. Rules have no state."""

    name: str
    """Unique among the rules."""

    sees_selections = False
    """Whether a matrix of the rule sees only some tokens; a is zero for all others."""

    @abstractmethod
    def covers(self, module: nn.Module) -> bool:
        """Return whether the rule is exact for the module; subclasses of a covered class may compute something else."""

    @abstractmethod
    def widths(self, module: nn.Module) -> tuple[int, int]:
        """Return d_out and d_in of the matrix, including the column for a bias."""

    @abstractmethod
    def inputs(
        self, module: nn.Module, x: Shaped[Tensor, "sequence token width"]
    ) -> Float[Tensor, "sequence token d_in"]:
        """Return a: the module's input by sequence, with a column of ones if there is a bias."""

    @abstractmethod
    def as_matrix(self, module: nn.Module, gradients: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        """Return the gradients of the module's own parameters, given by name, in the form of the matrix G."""

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

        By default these are tensors of that form, or with the tokens of all sequences end to end, one after the other;
        there may be axes of one element besides.

        Args:
            module: a module that the rule covers.
            values: the values in the module's own layout.
            shape: numbers of sequences and tokens of the batch.

        Returns:
            None if the values are not those of the tokens of whole sequences; the module is then refused.
        """
        if values.ndim == 3 and values.shape[:2] == shape:
            return values
        axes = [size for size in values.shape[:-1] if size > 1]  # axes of one element do not change the order
        is_laid_out = axes in ([size for size in shape if size > 1], [shape[0] * shape[1]])
        return values.reshape(*shape, values.shape[-1]) if is_laid_out else None

    def attach(self, module: nn.Module, observe: Observe) -> Handle:
        """Let every forward pass go on with what `observe` returns for the output at which Ds is the gradient."""
        return module.register_forward_hook(lambda _module, inputs, output: observe(inputs[0], output))

    def layers(self, name: str, module: nn.Module) -> tuple["AttributedLayer", ...]:
        """Return the matrices that the module holds, by default one.

        Args:
            name: the module's name in the model.
            module: a module that the rule covers.
        """
        return (AttributedLayer(name, module, self),)

    def frozen_map(self, module: nn.Module) -> FrozenMap | None:  # noqa: ARG002
        """Return the module's computation if it is only a product and a bias; for None, its own forward runs."""
        return None

    def outputs(self, module: nn.Module) -> OutputSide:  # noqa: ARG002
        """Return what the layer's output is to its curvature: by default a factor S."""
        return "factor"

    def owners(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """Return the modules of the model that may hold the matrix; it is refused if others share it."""
        return (module,)

    def sides(self, module: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Return the places in the model where the matrix is used, in the order of a forward pass; by default one."""
        return (OUTPUT,)

    def attach_side(self, module: nn.Module, side: str, observe: Observe) -> Handle:  # noqa: ARG002
        """Observe one of `sides`, as `attach` does."""
        return self.attach(module, observe)

    def terms(
        self,
        module: nn.Module,
        side: str,  # noqa: ARG002
        x: Shaped[Tensor, "sequence token *width"],
        gradient: Float[Tensor, "sequence token d"],
    ) -> GradientTerms:
        """Return what one of `sides` adds to the gradients of the matrix.

        Args:
            module: a module that the rule covers.
            side: the side.
            x: its input, laid out by sequence.
            gradient: the gradient at its output, likewise.
        """
        return TokenTerms(self.output_gradients(module, gradient), self.inputs(module, x).to(gradient.dtype))

    def summed(self, parts: Sequence[GradientTerms]) -> GradientTerms:
        """Return the terms of all `sides` together."""
        (only,) = parts
        return only

    def output_change(
        self,
        module: nn.Module,
        side: str,  # noqa: ARG002
        x: Shaped[Tensor, "sequence token *width"],
        V: Float[Tensor, "d_out d_in"],
    ) -> Float[Tensor, "sequence token d"]:
        """Return the derivative of what `output_gradients` lays out, at one of `sides`, when the matrix moves along V.

        Args:
            module: a module that the rule covers.
            side: the side.
            x: its input, laid out by sequence.
            V: the direction.
        """
        a = self.inputs(module, x)
        return a @ V.T.to(a.dtype)


@dataclass(frozen=True)
class AttributedLayer:
    """A matrix of the model whose gradients are measured.

    Args:
        name: its name in tables, which is the module's, unless the module holds several matrices.
        module: the module, or a view of the part of it that holds this matrix.
        rule: the rule that treats the module as a matrix.
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
        """d_in, including the bias's column."""
        return self.rule.widths(self.module)[1]

    @property
    def outputs(self) -> OutputSide:
        """What the output is to the curvature."""
        return self.rule.outputs(self.module)

    @property
    def factor_shape(self) -> tuple[int, int]:
        """d_out and d_in of the matrix that its vectors are multiplied with, or without S of that of A."""
        return (self.output_width if self.outputs == "factor" else self.input_width), self.input_width

    @property
    def parameters(self) -> int:
        """How many numbers the matrix has."""
        return self.input_width * self.output_width

    @property
    def device(self) -> torch.device:
        """The device of the weights and of the layer's measurements."""
        return next(self.module.parameters(recurse=False)).device

    def as_matrix(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, "d_out d_in"]:
        """Return the gradients of the module's own parameters, given by name, as one matrix."""
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
        InputError: more than one rule covers it.
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
    """Return the rules; search again only if the folders or the path changed, because every batch asks."""
    rules = discover("influence_assets.models.layers", "LAYER_RULE", LayerRule)  # type: ignore[type-abstract]
    return tuple(rules.values())
