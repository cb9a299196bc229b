"""What an attribution method is to the rest: a name, and something done to query gradients before the inner product.

Every method here scores a training sequence z for a query f by −⟨P, ∇L(z)⟩ / N, layer by layer, and differs only in P.
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
        """P of every layer, [query, d_out, d_in], from V = ∇f of the same shape."""
        ...
