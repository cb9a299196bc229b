"""The contract of commands of `influence`, and the options that several of them share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

StudyOption = Annotated[Path, typer.Option("--study", "-s", help="The study file.", envvar="INFLUENCE_STUDY")]
UnseenOption = Annotated[
    bool, typer.Option("--unseen", help="Show passages too that the study's own model was not trained on.")
]
FullOption = Annotated[bool, typer.Option("--full", help="Show passages whole.")]
HERE = Path("study.yaml")
"""The default of `StudyOption`: the study in the current folder."""

LAST = 1000


@dataclass(frozen=True, kw_only=True)
class Command:
    """A sub-command.

    Args:
        name: the name that users type.
        function: its parameters are the options, its docstring is the help; it raises `typer.Exit(1)` on failure.
        rank: its position in `influence --help`, smallest first; commands of the same rank are sorted by name.
        needs_extensions: whether it is refused while a command of an extension cannot be loaded.
    """

    name: str
    function: Callable[..., None]
    rank: int = LAST
    needs_extensions: bool = True
