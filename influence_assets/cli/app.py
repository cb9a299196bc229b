"""The command line, with the commands of this package, of extensions and of installed packages.

Commands are collected before a study is read, so a study's key `extensions` adds none. Your own commands come from the
folders of `INFLUENCE_EXTENSIONS` (`<folder>/commands/<name>.py`) or from entry points of the group
`influence_assets.cli.commands`.
"""

import typer

from influence_assets.cli.command import Command
from influence_assets.errors import InputError
from influence_assets.extensions import HYPHENATED_NAME, discover, own_parts

ROOM = "influence_assets.cli.commands"


def build_app(name: str | None = None) -> typer.Typer:
    """Return the command line with all commands, in the order of their ranks.

    Args:
        name: the command that is wanted; if it does not need extensions, a fault in one leaves out those of extensions.

    Raises:
        InputError: a command's file cannot be imported, or two commands have the same name.
    """
    app = typer.Typer(
        help="Which training data made a language model say this: EK-FAC influences, answered in SQL.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    try:
        commands = discover(ROOM, "COMMAND", Command, HYPHENATED_NAME)
    except InputError:
        commands = own_parts(ROOM, "COMMAND", Command, HYPHENATED_NAME)
        if name not in commands or commands[name].needs_extensions:
            raise
    for command in sorted(commands.values(), key=lambda command: (command.rank, command.name)):
        app.command(command.name)(command.function)
    return app
