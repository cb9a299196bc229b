"""`influence tally`: how many rows a table has. All that a command of one's own takes."""

import typer

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def tally(table: str, study: StudyOption = HERE) -> None:
    """Count the rows of a table."""
    from influence_assets.engine.workspace import catalogue_path
    from influence_assets.storage.catalogue import query

    rows = query(catalogue_path(Study.load(study)), f"select count(*) as rows from {table}").item()
    console.print(f"{rows} rows")
    if not rows:
        raise typer.Exit(1)


COMMAND = Command(name="tally", function=tally)
