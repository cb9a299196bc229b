"""Layer rules: which modules are linear maps, and how each stores its weight."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class LinearModule:
    """A linear map y = W x (+ b), seen as one [d_out, d_in] matrix with the bias as its last column."""

    name: str
    module: nn.Module

    @property
    def has_bias(self) -> bool:
        """Whether a column of ones belongs to the input."""
        return getattr(self.module, "bias", None) is not None

    @property
    def output_width(self) -> int:
        """d_out."""
        weight = self._weight()
        return weight.shape[1] if isinstance(self.module, Conv1D) else weight.shape[0]

    @property
    def input_width(self) -> int:
        """d_in, the bias's column included."""
        weight = self._weight()
        return (weight.shape[0] if isinstance(self.module, Conv1D) else weight.shape[1]) + int(self.has_bias)

    @property
    def device(self) -> torch.device:
        """Where its weight is, and with it what is measured of it."""
        return self._weight().device

    @property
    def parameters(self) -> int:
        """Numbers in the weight and the bias."""
        return self.input_width * self.output_width

    def input_with_bias(self, x: Float[Tensor, "*token width"]) -> Float[Tensor, "*token d_in"]:
        """a: the module's input, with a 1 appended where there is a bias."""
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1) if self.has_bias else x

    def as_matrix(
        self, weight: Float[Tensor, "rows columns"], bias: Float[Tensor, " d_out"] | None
    ) -> Float[Tensor, "d_out d_in"]:
        """A gradient of this module's parameters, in the module's own layout, as one [d_out, d_in] matrix."""
        matrix = weight.T if isinstance(self.module, Conv1D) else weight
        return matrix if bias is None else torch.cat([matrix, bias[:, None]], dim=1)

    def _weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)  # noqa: S101  # _is_linear has seen to it
        return weight


def is_linear(module: nn.Module) -> bool:
    """Whether a rule covers the module."""
    return type(module) in (nn.Linear, Conv1D)
