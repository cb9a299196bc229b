"""What a command of `influence` is, and the options that several of them have."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

StudyOption = Annotated[Path, typer.Option("--study", "-s", help="The study file.", envvar="INFLUENCE_STUDY")]
HERE = Path("study.yaml")
"""The default of `StudyOption`: the study of the current folder."""

LAST = 1000


@dataclass(frozen=True, kw_only=True)
class Command:
    """A sub-command.

    Args:
        name: as it is typed.
        function: its parameters are the options, its docstring is the help; `typer.Exit(1)` says that it failed.
        rank: its place in `influence --help`, the smallest first and those of the same rank by name.
    """

    name: str
    function: Callable[..., None]
    rank: int = LAST
