"""The command `influence`."""

import os
import sys

from rich.console import Console
from rich.markup import escape

from influence_assets.errors import InputError, StorageError


def main() -> None:
    """Run the command; an error that a person can mend is printed as one paragraph, without a traceback."""
    from influence_assets.cli.app import app

    code: int | str | None = 0
    try:
        app()
    except (InputError, StorageError) as error:
        from influence_assets.cli.showing import visible  # messages quote what was read

        message = f"[bold red]Error[/] {escape(visible(str(error)))}"
        Console(stderr=True, emoji=False).print(message, highlight=False, soft_wrap=True)
        code = 1
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a long run the interpreter's tear-down of DuckDB's bindings beside torch prints pages of
    # leak warnings, and everything of ours is closed and flushed by now.
    os._exit(code if isinstance(code, int) else 1)
