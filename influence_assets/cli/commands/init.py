"""`influence init`."""

from pathlib import Path
from typing import Annotated

import typer

from influence_assets.cli.command import Command
from influence_assets.cli.console import console


def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write a commented study with a small corpus and questions to start from."""
    from influence_assets.cli.example import write_example

    study = write_example(folder)
    console.print(f"Wrote [bold]{study}[/]. Read it, then: [bold]influence run --study {study}[/]")


COMMAND = Command(name="init", function=init, rank=10)
