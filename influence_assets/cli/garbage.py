"""The report of a garbage collection."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from influence_assets.cli.figures import counted
from influence_assets.escaping import visible

if TYPE_CHECKING:
    from influence_assets.orchestration.history import Pruned
    from influence_assets.upkeep.garbage import Collected

KEYS_SHOWN = 20
"""How many of the artifacts that would be removed are named."""


def print_collected(collected: "Collected", console: Console, *, done: bool) -> None:
    """Print how much a collection removed or, if it was not done, what it would remove."""
    verb = "Removed" if done else "Would remove"
    removed, reduced = counted(len(collected.removed), "artifact"), len(collected.reduced)
    more = f", and the content of {reduced:,} more, whose lineage stays" if reduced else ""
    nothing = "There is nothing to remove." if not (collected.removed or reduced or collected.bytes) else ""
    console.print(
        (nothing or f"{verb} {removed}{more}: {collected.bytes:,} bytes.")
        + (" The catalogue was rebuilt." if collected.catalogue_rebuilt else "")
    )
    for key in [*collected.removed, *collected.reduced][: 0 if done else KEYS_SHOWN]:
        console.print(f"  {escape(str(key))}", soft_wrap=True)
    if collected.not_rebuilt is not None:
        console.print(
            "[bold red]The catalogue could not be rebuilt[/], so that bytes of deleted rows may still be in its file: "
            f"{escape(visible(collected.not_rebuilt))} Then run `influence gc` again.",
            soft_wrap=True,
            highlight=False,
        )
    if collected.kept_back:
        console.print(
            f"[yellow]{len(collected.kept_back)} artifacts of withdrawn documents or vanished files are still "
            "published.[/] Run `influence run`, then this again."
        )


def print_pruned(pruned: "Pruned", console: Console) -> None:
    """Print what was removed of the history of runs, if anything was."""
    if pruned.logs or pruned.runs:
        runs = f" and {counted(pruned.runs, 'run')} that computed nothing" if pruned.runs else ""
        console.print(f"Removed the logs of {counted(pruned.logs, 'old run')}{runs}: {pruned.bytes:,} bytes.")
