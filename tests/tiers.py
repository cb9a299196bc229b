"""Which values of a parameter every run of the tests tries, and which only the whole of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def slow_but(*fast: Any, of: Iterable[Any]) -> list[Any]:
    """Parameters: a few as they are, all others marked as slow."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in of]


def slow_rows_but(*fast: Sequence[Any], of: Iterable[Sequence[Any]]) -> list[Any]:
    """The same where each value is one of several parameters at once."""
    return [row if row in fast else pytest.param(*row, marks=pytest.mark.slow) for row in of]
