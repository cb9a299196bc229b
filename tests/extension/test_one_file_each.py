"""What it takes to add each kind of part: one file, and SQL where it has a table. Nothing that is there is touched.

Every folder beside this file adds one made-up part, as `<example>/<room>/<file>.py`, the way a user's extension folder
does. Run with `-s` to see the count.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]

ROOMS = {
    "methods": "a method",
    "layers": "a kind of layer",
    "formats": "a source format",
    "assets": "an asset with a table",
    "backends": "a storage backend",
    "executors": "an executor",
    "commands": "a command",
    "pages": "a report page",
}
"""What a part is called, by the room that it is found in."""

ATTRIBUTES = {
    "methods": "METHOD",
    "layers": "LAYER_RULE",
    "formats": "FORMAT",
    "assets": "ASSET",
    "backends": "BACKEND",
    "executors": "EXECUTOR",
    "commands": "COMMAND",
    "pages": "PAGE",
}


def examples(room):
    """The extension folders that add a part to a room."""
    return sorted(folder.parent for folder in HERE.glob(f"*/{room}") if folder.is_dir())


def files_of(example):
    return sorted(path for path in example.rglob("*") if path.is_file() and path.suffix != ".pyc")


@pytest.mark.parametrize("room", ROOMS)
def test_adding_a_part_takes_one_file(room, capsys):
    assert examples(room), f"no example adds {ROOMS[room]}"
    for example in examples(room):
        files = files_of(example)
        python = [path for path in files if path.suffix == ".py"]
        sql = [path for path in files if path.suffix == ".sql"]
        with capsys.disabled():
            print(f"\n{ROOMS[room]:<22} {example.name:<24} {len(python)} file, {len(sql)} of SQL, its test", end="")
        assert [path.parent for path in python] == [example / room], "more than one file, or one of another room"
        assert files == sorted(python + sql), "a part is a Python file, and SQL"
        assert all(path.is_relative_to(example / room / "sql") for path in sql)
        assert bool(sql) == (room == "assets")


@pytest.mark.parametrize("room", ROOMS)
def test_every_example_has_its_test(room):
    for example in examples(room):
        tests = [path for path in HERE.glob("test_*.py") if example.name in path.read_text(encoding="utf-8")]
        assert [path for path in tests if path != Path(__file__)], f"{example.name} is tried by no test"


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_in_the_package_names_it(room):
    package = [*(ROOT / "influence_assets").rglob("*.py"), *(ROOT / "sql").rglob("*.sql"), ROOT / "pyproject.toml"]
    for example in examples(room):
        names = {example.name, *(path.stem for path in files_of(example))} | {part_name(example, room)}
        naming = [str(path) for path in package if any(name in path.read_text(encoding="utf-8") for name in names)]
        assert not naming, f"{naming} name {example.name}"


def part_name(example, room):
    """The name that the part gives itself."""
    (file,) = (example / room).glob("*.py")
    spec = spec_from_file_location(f"tests.extension.{example.name}.{file.stem}", file)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return getattr(module, ATTRIBUTES[room]).name
