"""The command line, with the commands of this package, of extensions and of installed packages.

Commands are collected before a study is read, so a study's key `extensions` adds none. Your own commands come from the
folders of `INFLUENCE_EXTENSIONS` (`<folder>/commands/<name>.py`) or from entry points of the group
`influence_assets.cli.commands`.
"""

import typer

from influence_assets.cli.command import Command
from influence_assets.extensions import discover

ROOM = "influence_assets.cli.commands"


def build_app() -> typer.Typer:
    """Return the command line with all commands, in the order of their ranks.

    Raises:
        InputError: a command's file cannot be imported, or two commands have the same name.
    """
    app = typer.Typer(
        help="Which training data made a language model say this: EK-FAC influences, answered in SQL.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    commands = discover(ROOM, "COMMAND", Command).values()
    for command in sorted(commands, key=lambda command: (command.rank, command.name)):
        app.command(command.name)(command.function)
    return app
