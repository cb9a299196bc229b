"""The identity, in the place of eigenvectors where a side is left in the model's own coordinates."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """The identity of a width; products with it return the other factor, and nothing is computed."""

    width: int

    @property
    def T(self) -> "Identity":  # noqa: N802  # as torch calls it
        """The transposed matrix, which is the same."""
        return self

    def __len__(self) -> int:
        return self.width

    def __matmul__(self, X: Tensor) -> Tensor:
        return X

    def __rmatmul__(self, X: Tensor) -> Tensor:
        return X

    def to(self, *_where: Any, **_how: Any) -> "Identity":
        """Return the identity, which is everywhere and in any dtype."""
        return self
