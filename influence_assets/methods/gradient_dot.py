"""The plain inner product of gradients: influence with the identity in the place of the curvature."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GradientDot:
    """P = V: a baseline; its scores have no unit that compares across models."""

    name: str = "gradient_dot"

    def precondition(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradients as they are."""
        return dict(gradients)
