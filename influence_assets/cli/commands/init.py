"""`influence init`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from influence_assets.cli.command import Command
from influence_assets.cli.console import console


def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write a commented study with a small corpus and questions to start from."""
    from influence_assets.cli.example import write_example

    study = write_example(folder)
    command = f"influence run --study {shlex.quote(str(study))}"
    console.print(f"Wrote [bold]{escape(str(study))}[/]. Read it, then: [bold]{escape(command)}[/]", soft_wrap=True)


COMMAND = Command(name="init", function=init, rank=10)
