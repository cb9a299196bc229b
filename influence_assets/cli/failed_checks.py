"""What commands print of checks that failed and are outstanding."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from influence_assets.engine.failed_checks import FailedCheck
from influence_assets.escaping import visible

CHECKS_SHOWN = 10


def print_failed_checks(failed: Sequence[FailedCheck], console: Console) -> None:
    """Print which checks fail, and what to do about each."""
    for check in failed[:CHECKS_SHOWN]:
        message = escape(visible(f"{check.label}. {check.remedy}"))
        console.print(f"[bold red]Check failed[/] {message}", soft_wrap=True, highlight=False)
    if len(failed) > CHECKS_SHOWN:
        console.print(f"… and {len(failed) - CHECKS_SHOWN:,} more checks failed.")
