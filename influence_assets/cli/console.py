"""The terminal, file or pipe that the command prints to."""

import sys

from rich.console import Console

PIPED_WIDTH = 160
"""Columns of output that goes to a file or another command."""

# No emoji: `:warning:` in a corpus stays what it is.
console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, emoji=False)
