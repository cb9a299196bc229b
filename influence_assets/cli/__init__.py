"""The command `influence`."""

import errno
import os
import sqlite3
import sys

from rich.console import Console
from rich.markup import escape

from influence_assets.errors import InputError, StorageError
from influence_assets.escaping import visible

FULL_DISK_MESSAGES = ("database or disk is full", "disk I/O error")
"""SQLite's messages for a full disk; the second means that it cannot enlarge the file that its readers share."""


def _print_error(message: str) -> None:
    """Print an error as one paragraph, with control characters made visible, because messages quote what was read."""
    Console(stderr=True, emoji=False).print(
        f"[bold red]Error[/] {escape(visible(message))}", highlight=False, soft_wrap=True
    )


def _is_full_disk(error: BaseException | None) -> bool:
    """Return whether a full disk caused an error, also in SQLite, which keeps Dagster's runs."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.OperationalError) and str(error) in FULL_DISK_MESSAGES:
            return True
        error = error.__cause__ or error.__context__
    return False


def main() -> None:
    """Run the command; print errors that the user can correct as one paragraph, without a traceback."""
    from influence_assets.cli.app import build_app

    code: int | str | None = 0
    try:
        build_app(*sys.argv[1:2])()
    except (InputError, StorageError) as error:
        _print_error(str(error))
        code = 1
    except SystemExit as exited:
        code = exited.code
    except Exception as error:
        if not _is_full_disk(error):
            raise
        folder = os.environ.get("DAGSTER_HOME", "Its folder")
        _print_error(
            f"{folder}: Dagster cannot write its files there. Earlier results are unchanged. "
            "Free some space on that disk, or repair it, and run again."
        )
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a long run, tearing down DuckDB's bindings beside torch prints pages of leak warnings, and all
    # of this package's files are closed and flushed by now.
    os._exit(code if isinstance(code, int) else 1)
