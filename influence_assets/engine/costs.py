"""The cost of computing partitions, in quantities that can be added."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The cost of computing some partitions of an asset.

    Args:
        operations: floating-point operations, counted from the layers' shapes; 0 if none are counted.
        bytes: bytes written; None if they cannot be predicted.
        amount: what the time is proportional to if no operations are counted: bytes of text, or sequences.
    """

    operations: float = 0.0
    bytes: float | None = 0.0
    amount: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Return the sum of both costs."""
        is_unknown = self.bytes is None or other.bytes is None
        written = None if is_unknown else (self.bytes or 0) + (other.bytes or 0)
        return Cost(self.operations + other.operations, written, self.amount + other.amount)
