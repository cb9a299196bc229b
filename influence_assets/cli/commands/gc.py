"""`influence gc`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.errors import InputError
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.upkeep.garbage import Vanished


def gc(
    keep: Annotated[int, typer.Option(min=0, help="Superseded versions of each partition that stay.")] = 1,
    keep_runs: Annotated[int, typer.Option(min=0, help="Runs whose logs stay in Dagster's history.")] = 50,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before much of the corpus goes because its files are gone.")
    ] = False,
    study: StudyOption = HERE,
) -> None:
    """Remove superseded versions, old runs' logs, and what is left of withdrawn documents and vanished files."""
    from influence_assets.assets import open_workspace
    from influence_assets.cli.garbage import print_collected, print_pruned
    from influence_assets.upkeep.garbage import collect, vanished_documents

    workspace = open_workspace(Study.load(study))
    vanished = vanished_documents(workspace)
    if vanished.is_large and not (dry_run or yes):
        print_collected(collect(workspace, keep=keep, dry_run=True), console, done=False)
        _confirm(vanished)
    # The workspace has listed the corpus once, so what is removed is what the question was about.
    collected = collect(workspace, keep=keep, dry_run=dry_run)
    print_collected(collected, console, done=not dry_run)
    if collected.not_rebuilt is not None:
        raise typer.Exit(1)
    if not dry_run:
        from influence_assets.orchestration.history import prune_history

        print_pruned(prune_history(workspace.study, keep=keep_runs), console)


def _confirm(vanished: "Vanished") -> None:
    """Ask the user whether results of vanished files may be removed.

    Raises:
        InputError: there is no terminal to ask in.
        typer.Exit: the user declines.
    """
    from influence_assets.cli.vanished import shard_names

    share = f"{vanished.documents:,} of the store's {vanished.of_documents:,} documents"
    problem = f"{share} would go, because the files of {shard_names(vanished.shards)} are gone from the corpus"
    if not (sys.stdin.isatty() and console.is_terminal):
        remedy = "If a disk is missing, mount it; if they may go, give `--yes`."
        raise InputError("gc", problem, remedy)
    console.print(f"{escape(problem)}. If a disk is missing, mount it first.", soft_wrap=True)
    if not typer.confirm("Remove what was computed of them?"):
        raise typer.Exit(1)


COMMAND = Command(name="gc", function=gc, rank=50)
