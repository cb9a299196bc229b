"""`influence run`."""

from typing import Annotated

import typer

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def run(
    *,
    new_generation: Annotated[
        bool, typer.Option("--new-generation", help="Fit the curvature again on all shards, beside the current one.")
    ] = False,
    study: StudyOption = HERE,
) -> None:
    """Bring everything up to date: compute what is new, changed or missing, and nothing else."""
    from influence_assets.cli.study_runs import run_study

    if not run_study(Study.load(study), console, new_generation=new_generation):
        raise typer.Exit(1)


COMMAND = Command(name="run", function=run, rank=20)
