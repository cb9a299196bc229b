"""Which values of a parameter `make test` tries, which `make test-slow` tries, and which only `make soak` does."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest


def slow_but(*fast: Any, of: Iterable[Any], slow: Collection[Any] | None = None) -> list[Any]:
    """Return parameters: the fast ones as they are, all others marked.

    Args:
        fast: what every run of the tests tries.
        of: all values.
        slow: of the others those that are `slow`; the rest is `soak`. None: all others are `slow`.
    """
    return [value if value in fast else pytest.param(value, marks=_mark(value, slow)) for value in of]


def slow_rows_but(
    *fast: Sequence[Any], of: Iterable[Sequence[Any]], slow: Collection[Sequence[Any]] | None = None
) -> list[Any]:
    """Return the same where each value is one of several parameters at once."""
    return [row if row in fast else pytest.param(*row, marks=_mark(row, slow)) for row in of]


def _mark(value: Any, slow: Collection[Any] | None) -> pytest.MarkDecorator:
    return pytest.mark.slow if slow is None or value in slow else pytest.mark.soak
