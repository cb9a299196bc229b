"""`influence verify`."""

import typer
from rich.markup import escape
from rich.progress import Progress

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def verify(study: StudyOption = HERE) -> None:
    """Read everything that is stored again, and say what is damaged and how to repair it."""
    from influence_assets.assets import open_workspace
    from influence_assets.upkeep.verify import verify

    workspace, artifacts = open_workspace(Study.load(study)), 0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("artifacts", total=None)

        def progress(done: int, total: int) -> None:
            nonlocal artifacts
            artifacts = total
            bar.update(task, completed=done, total=total)

        troubles = verify(workspace, progress)
    for trouble in troubles:
        message = f"{trouble.what}: {trouble.problem}\n  {trouble.where}\n  {trouble.remedy}"
        console.print(f"[bold red]Damaged[/] {escape(message)}", soft_wrap=True)
    if troubles:
        raise typer.Exit(1)
    console.print(f"[green]All {artifacts:,} artifacts and the catalogue are as they were written.[/]")


COMMAND = Command(name="verify", function=verify, rank=40)
