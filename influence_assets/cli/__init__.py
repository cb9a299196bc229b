"""The command `influence`."""

import errno
import os
import sqlite3
import sys

from rich.console import Console
from rich.markup import escape

from influence_assets.errors import InputError, StorageError

_OF_A_FULL_DISK = ("database or disk is full", "disk I/O error")
"""What SQLite says of one; the second, where it cannot enlarge the file that its readers share."""


def _print_error(message: str) -> None:
    from influence_assets.cli.showing import visible  # messages quote what was read

    Console(stderr=True, emoji=False).print(
        f"[bold red]Error[/] {escape(visible(message))}", highlight=False, soft_wrap=True
    )


def _tells_of_a_full_disk(error: BaseException | None) -> bool:
    """Whether an error comes from one; Dagster keeps its runs in SQLite, which has words of its own for it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.OperationalError) and str(error) in _OF_A_FULL_DISK:
            return True
        error = error.__cause__ or error.__context__
    return False


def main() -> None:
    """Run the command; an error that a person can mend is printed as one paragraph, without a traceback."""
    from influence_assets.cli.app import app

    code: int | str | None = 0
    try:
        app()
    except (InputError, StorageError) as error:
        _print_error(str(error))
        code = 1
    except SystemExit as ended:
        code = ended.code
    except Exception as error:
        if not _tells_of_a_full_disk(error):
            raise
        folder = os.environ.get("DAGSTER_HOME", "Its folder")
        _print_error(
            f"{folder}: Dagster cannot write its files there. What stood before still stands. "
            "Free some space on that disk, or mend it, and run again."
        )
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a long run the interpreter's tear-down of DuckDB's bindings beside torch prints pages of
    # leak warnings, and everything of ours is closed and flushed by now.
    os._exit(code if isinstance(code, int) else 1)
