"""`influence ui`."""

import os
import sys
from collections.abc import Mapping
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
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name under which browsers may reach it; may be repeated.")
    ] = None,
) -> None:
    """Start Dagster's UI on the study, with its sensors, for pages of its own only."""
    from influence_assets.orchestration.definitions import STUDIES
    from influence_assets.orchestration.guarded_webserver import HOSTS
    from influence_assets.orchestration.instance import LOCATION, open_instance

    path = study.resolve()
    with open_instance(Study.load(path)) as instance:
        home = Path(instance.root_directory)
    console.print(f"Dagster's UI will be at [bold]http://{host}:{port}[/]; Ctrl+C ends it.")
    workspace = home / "workspace.yaml"
    code_location = {"module_name": "influence_assets.orchestration.location", "location_name": LOCATION}
    workspace.write_text(yaml.safe_dump({"load_from": [{"python_module": code_location}]}), encoding="utf-8")
    guarded = "influence_assets.orchestration.guarded_dev"
    # -P and its variable: files in the current folder, which may be somebody else's, are no modules.
    command = [sys.executable, "-P", "-m", guarded, "dev", "-w", str(workspace), "-h", host, "-p", str(port)]
    os.chdir(path.parent)
    sys.stdout.flush()
    served = ",".join([host, *(allow_host or [])])
    # Dagster takes this process's place, so that a signal to the command reaches it and it ends its own children.
    os.execve(sys.executable, command, isolated({STUDIES: str(path), HOSTS: served}))  # noqa: S606


def isolated(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Dagster imports nothing from the current folder, and all else as before.

    Args:
        variables: what is added to this process's environment.
    """
    environment = {**os.environ, **variables, "PYTHONSAFEPATH": "1"}
    if given := os.environ.get("PYTHONPATH"):
        # Dagster takes the first entry of sys.path for the current folder, and leaves it out where it loads code.
        environment["PYTHONPATH"] = os.pathsep.join([os.devnull, given])
    return environment


COMMAND = Command(name="ui", function=ui, rank=120)
