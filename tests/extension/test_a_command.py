"""A command of one file, found by its folder and by its entry point."""

import pytest

from influence_assets.extensions import EXTENSIONS
from tests.commanding import influence

EXAMPLE = "tally"


def commands():
    """The commands in the order in which the help lists them."""
    rows = influence("--help").out.partition("Commands")[2].splitlines()
    return [row.split()[1] for row in rows if row.startswith("│ ")]


@pytest.fixture(params=["folder", "entry point"])
def added(request):
    """The commands that there were before it was added."""
    before = commands()
    if request.param == "folder":
        request.getfixturevalue("extend")(EXAMPLE)
    else:
        request.getfixturevalue("install")(EXAMPLE, "influence_assets.cli.commands")
    return before


def test_it_is_listed_last_explained_and_run(added, standing):
    assert commands() == [*added, "tally"]
    assert "Count the rows of a table." in influence("tally", "--help").out
    finished = influence("tally", "documents", "--study", standing)
    assert (finished.code, finished.out, finished.err) == (0, "7 rows\n", "")
    finished = influence("tally", "tombstones", "--study", standing)
    assert (finished.code, finished.out, finished.err) == (1, "0 rows\n", "")


def test_a_broken_one_is_one_paragraph_that_names_its_file(tmp_path, monkeypatch):
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "broken.py").write_text("import nothing_of_this_name")
    monkeypatch.setenv(EXTENSIONS, str(tmp_path))
    finished = influence("--help")
    assert (finished.code, finished.out) == (1, "")
    assert finished.error.startswith(f"Error {tmp_path}/commands/broken.py: cannot be imported (ModuleNotFoundError: ")
    assert finished.err.count("\n") == 1
