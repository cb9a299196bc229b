"""The terminal, file or pipe that the command prints to."""

import sys

from rich.console import Console

PIPED_WIDTH = 160
"""The width of output that goes to a file or another command, in columns."""

# No emoji: `:warning:` in a corpus must be printed unchanged.
console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, emoji=False)
