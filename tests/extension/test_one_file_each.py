"""What it takes to add each kind of part: one file, and SQL where it has a table. Nothing that is there is touched.

The made-up parts lie as in a user's extension folders, `<folder>/<room>/<part>.py`. Run with `-s` to see the count.
"""

import ast
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NamedTuple

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


class Room(NamedTuple):
    package: str
    attribute: str
    part: str


ROOMS = (
    Room("influence_assets.methods", "METHOD", "a method"),
    Room("influence_assets.models.layers", "LAYER_RULE", "a kind of layer"),
    Room("influence_assets.corpus.formats", "FORMAT", "a source format"),
    Room("influence_assets.assets", "ASSET", "an asset with a table"),
    Room("influence_assets.storage.backends", "BACKEND", "a storage backend"),
    Room("influence_assets.engine.executors", "EXECUTOR", "an executor"),
    Room("influence_assets.cli.commands", "COMMAND", "a command"),
    Room("influence_assets.report.pages", "PAGE", "a report page"),
)
each_room = pytest.mark.parametrize("room", ROOMS, ids=[room.attribute.lower() for room in ROOMS])


def parts(room):
    """The files that add a made-up part to a room."""
    return sorted(HERE.glob(f"*/{room.package.rpartition('.')[2]}/*.py"))


def sql_of(file):
    """The SQL beside a part."""
    return sorted((file.parent / "sql").rglob("*.sql"))


@each_room
def test_adding_a_part_takes_one_file(room, capsys):
    assert parts(room), f"no made-up part shows how {room.part} is added"
    for file in parts(room):
        with capsys.disabled():
            print(f"\n{room.part:<22} {file.stem:<20} 1 file, {len(sql_of(file))} of SQL, 0 edits ", end="")
        assert bool(sql_of(file)) == (room.attribute == "ASSET")
        assert imported_modules(file).isdisjoint({"tests", "influence_extensions", ""}), "it needs another file"


@each_room
def test_there_is_nothing_else_beside_it(room):
    for file in parts(room):
        beside = {path for path in file.parent.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert beside <= {*parts(room), *sql_of(file)}


@each_room
def test_it_is_tried_by_a_test(room):
    tests = {path: path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py") if path != Path(__file__)}
    for file in parts(room):
        assert any(re.search(rf"\b{file.stem}\b", text) for text in tests.values()), f"nothing tries {file.name}"


@each_room
def test_nothing_in_the_package_names_it(room):
    above = ROOT.joinpath(*room.package.split(".")[:2])
    for file in parts(room):
        names = {file.stem, part_name(file, room)}
        assert [str(path) for path in above.rglob("*.py") if constants(path) & names] == []
        assert not any(re.search(rf"\b{name}\b", (ROOT / "pyproject.toml").read_text()) for name in names)


def test_no_room_is_left_out():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "influence_assets").rglob("*.py")]
    calls = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    asked_for = {call.args[1].value for call in calls if getattr(call.func, "id", "") == "discover"}
    assert asked_for == {room.attribute for room in ROOMS}


def imported_modules(file):
    """The first component of everything that a file imports; the empty one of a relative import."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add("" if node.level else node.module.split(".")[0])
    return modules


def constants(path):
    """The texts that stand in a module's code."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def part_name(file, room):
    """The name that the part gives itself."""
    spec = spec_from_file_location(f"{__package__}.{file.parents[1].name}.{file.stem}", file)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return getattr(module, room.attribute).name
