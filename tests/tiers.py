"""Which values of a parameter every run of the tests tries, and which only the whole of them."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(*fast: Any, of: Iterable[Any]) -> list[Any]:
    """Parameters: a few as they are, all others marked as slow."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in of]
