"""`influence check`."""

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.escaping import visible
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.capture.self_test import Line

WORDS = {"good": "[green]good[/]", "rough": "[yellow]look[/]", "bad": "[bold red]wrong[/]"}


def check(study: StudyOption = HERE) -> None:
    """Try the numerics of the study's model on its first texts, about a minute, before the long run."""
    loaded = Study.load(study)  # first, so that an invalid study fails before the slow import of torch below
    from influence_assets.assets import open_workspace
    from influence_assets.layouts.self_test import lines_of

    lines: list[Line] = []
    with TemporaryDirectory() as scratch, console.status("Loading the model …") as status:
        for line in lines_of(open_workspace(loaded), scratch):
            lines.append(line)
            status.update(escape(visible(f"Measured: {line.what}")))
    console.print(_table(lines))
    for line in lines:
        if line.advice:
            console.print(escape(visible(f"{line.what}: {line.advice}")), soft_wrap=True, highlight=False)
    if any(line.level == "bad" for line in lines):
        raise typer.Exit(1)


def _table(lines: "list[Line]") -> Table:
    table = Table("property", "measured", "verdict", box=None, pad_edge=False)
    for line in lines:
        table.add_row(escape(visible(line.what)), escape(visible(line.measured)), WORDS[line.level])
    return table


COMMAND = Command(name="check", function=check, rank=15)
