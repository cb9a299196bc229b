"""`influence init`."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from influence_assets.cli.command import Command
from influence_assets.cli.console import console


class Template(StrEnum):
    """What a new study starts from."""

    TEXT = "text"
    CHAT = "chat"
    LORA = "lora"


def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    template: Annotated[
        Template,
        typer.Option(
            help="What it starts from: texts, conversations for fine-tuning, or a LoRA adapter that learnt these."
        ),
    ] = Template.TEXT,
) -> None:
    """Write a commented study with a small corpus and questions to start from."""
    from influence_assets.cli.example import write_example

    if template is Template.LORA:
        console.print("Training a small model and its adapter, which takes some seconds.")
    study = write_example(folder, template.value)
    command = f"influence run --study {shlex.quote(str(study))}"
    console.print(f"Wrote [bold]{escape(str(study))}[/]. Read it, then: [bold]{escape(command)}[/]", soft_wrap=True)


COMMAND = Command(name="init", function=init, rank=10)
