"""What an attribution method is to the rest: a name, and something done to query gradients before the inner product.

Every method here scores a training sequence z for a query f by −⟨P, ∇L(z)⟩ / N, layer by layer, and differs only in P.
Query gradients and P are in the layers' eigenbases, Q_Sᵀ V Q_A, where curvature is diagonal: inner products do not
change by a rotation of both sides, and who scores chooses on which side to rotate.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class AttributionMethod(Protocol):
    """A way to precondition query gradients."""

    @property
    def name(self) -> str:
        """As it stands in tables."""
        ...

    def precondition(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """P of every layer, [query, d_out, d_in], from V = ∇f, both in the eigenbases; V is given up."""
        ...
