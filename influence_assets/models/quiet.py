"""Silencing of transformers' progress bars and reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that is not empty, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and reports inside the block; callers raise what they report as errors."""
    logging: Any = transformers.logging  # untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
