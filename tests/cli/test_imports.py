"""What a command imports before it has something to show: nothing that takes seconds unless it needs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import slow_but

SLOW = {"torch", "transformers", "dagster", "altair", "scipy"}
READS_TABLES = {"polars", "duckdb", "zarr"}

STATUS, SQL = ("status",), ("sql", "select count(*) from documents")

PROBE = """
import os, sys

def finish(code):
    print("imported", *sys.modules, file=sys.stderr)
    os.execv(sys.executable, [sys.executable, "-c", f"raise SystemExit({code})"])

os._exit = finish
from influence_assets.cli import main
main()
"""


def imported_by(*arguments, folder):
    """The top-level modules that a command had imported when it finished, and its exit code."""
    finished = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    (modules,) = [line for line in finished.stderr.splitlines() if line.startswith("imported ")]
    return {name.partition(".")[0] for name in modules.split()[1:]}, finished.returncode


@pytest.mark.parametrize(
    "arguments", slow_but(("--help",), of=[("--help",), ("run", "--help"), ("ui", "--help"), ("init", "new")])
)
def test_help_and_init_import_no_machinery(tmp_path, arguments):
    modules, code = imported_by(*arguments, folder=tmp_path)
    assert code == 0
    assert "typer" in modules, "the probe sees what is imported"
    assert modules & (SLOW | READS_TABLES) == set()


@pytest.mark.parametrize(
    "arguments",
    slow_but(STATUS, SQL, of=[STATUS, SQL, ("cookbook",), ("verify",), ("gc", "--dry-run"), ("rebuild-catalogue",)]),
)
def test_what_reads_the_store_needs_neither_torch_nor_dagster(standing, tmp_path, arguments):
    from tests import studies

    modules, code = imported_by(*arguments, folder=studies.copied(standing, tmp_path).parent)
    assert code == 0
    assert "duckdb" in modules
    assert modules & SLOW == set()


@pytest.mark.parametrize("command", slow_but("ask", of=["run", "ask", "plan", "ui"]))
def test_a_study_that_is_refused_is_refused_at_once(tmp_path, command):
    options = ("--prompt", "a", "--completion", "b") if command == "ask" else ()
    modules, code = imported_by(command, *options, folder=tmp_path)
    assert code == 1
    assert modules & {"torch", "transformers"} == set()
