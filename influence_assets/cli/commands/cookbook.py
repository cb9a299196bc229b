"""`influence cookbook`."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def cookbook(
    name: Annotated[str | None, typer.Argument(help="A query's name; without it, all of them are listed.")] = None,
    bind: Annotated[list[str] | None, typer.Option(help="A parameter of the query, as name=value.")] = None,
    study: StudyOption = HERE,
) -> None:
    """Run one of the prepared queries, such as `strongest_passages --bind query_id=… --bind count=5`."""
    from influence_assets.cli.tables import show_rows
    from influence_assets.engine.workspace import catalogue_path
    from influence_assets.storage.catalogue import ask_cookbook

    if name is None:
        _print_questions()
        return
    values = {parameter: value for parameter, _, value in (pair.partition("=") for pair in bind or [])}
    show_rows(ask_cookbook(catalogue_path(Study.load(study)), name, values), "table", None, console)


def _print_questions() -> None:
    """Print the prepared queries and the parameters that each needs."""
    from influence_assets.storage.catalogue import cookbook

    table = Table("question", "what it answers", "needs", box=None, pad_edge=False)
    for name, question in cookbook().items():
        needs = ", ".join(f"{parameter}: {meaning}" for parameter, meaning in question.parameters.items())
        table.add_row(name, escape(question.purpose), escape(needs))
    console.print(table)


COMMAND = Command(name="cookbook", function=cookbook, rank=100)
