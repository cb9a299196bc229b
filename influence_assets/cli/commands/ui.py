"""`influence ui`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from influence_assets.cli.command import HERE, Command, StudyOption
from influence_assets.cli.console import console
from influence_assets.study import Study


def ui(
    study: StudyOption = HERE,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.")] = 3000,
) -> None:
    """Start Dagster's UI on the study, with its sensors."""
    from influence_assets.orchestration.definitions import STUDIES
    from influence_assets.orchestration.instance import LOCATION, open_instance

    path = study.resolve()
    with open_instance(Study.load(path)) as instance:
        home = Path(instance.root_directory)
    console.print(f"Dagster's UI will be at [bold]http://{host}:{port}[/]; Ctrl+C ends it.")
    workspace = home / "workspace.yaml"
    code_location = {"module_name": "influence_assets.orchestration.location", "location_name": LOCATION}
    workspace.write_text(yaml.safe_dump({"load_from": [{"python_module": code_location}]}), encoding="utf-8")
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-h", host, "-p", str(port)]
    os.chdir(home)
    sys.stdout.flush()
    # Dagster takes this process's place, so that a signal to the command reaches it and it ends its own children.
    os.execve(sys.executable, command, os.environ | {STUDIES: str(path)})  # noqa: S606


COMMAND = Command(name="ui", function=ui, rank=120)
