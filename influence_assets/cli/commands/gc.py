"""`influence gc`."""

from typing import Annotated

import typer

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def gc(
    keep: Annotated[int, typer.Option(min=0, help="Superseded versions of each partition that stay.")] = 1,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    study: StudyOption = HERE,
) -> None:
    """Remove superseded versions, and what is left of withdrawn documents and vanished files."""
    from influence_assets.assets import open_workspace
    from influence_assets.cli.garbage import print_collected
    from influence_assets.upkeep.garbage import collect

    collected = collect(open_workspace(Study.load(study)), keep=keep, dry_run=dry_run)
    print_collected(collected, console, done=not dry_run)


COMMAND = Command(name="gc", function=gc, rank=50)
