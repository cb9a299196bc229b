"""What no import contract can say: who may name an asset, and that every part of a room is found."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import influence_assets
from influence_assets.assets import asset_graph

PACKAGE = Path(influence_assets.__file__).parent
NAMELESS = ("engine", "orchestration", "upkeep", "forecast")
"""Rooms that know assets by their properties alone."""


def string_constants(source: str) -> Iterator[tuple[int, str]]:
    """Every string constant of a file, f-strings' parts included and docstrings left out."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_constants_are_found_wherever_they_stand():
    source = '"""covariances"""\ndef f(x="eigenbases"):\n    """curvature"""\n    return {f"{x}documents": ["a"]}\n'
    assert sorted(text for _, text in string_constants(source)) == ["a", "documents", "eigenbases"]


@pytest.mark.parametrize("room", NAMELESS)
def test_no_asset_is_named_outside_its_room(room):
    names = {asset.name for asset in asset_graph()}
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    named = [
        f"{file.relative_to(PACKAGE)}:{line} {text!r}"
        for file in files
        for line, text in string_constants(file.read_text(encoding="utf-8"))
        if text in names
    ]
    assert not named, "ask for a property of the definition instead"


def test_each_asset_has_a_file_of_its_name():
    files = {file.stem for file in (PACKAGE / "assets").glob("*.py")}
    assert {asset.name for asset in asset_graph()} <= files


def test_the_engine_loads_no_torch():
    """Planning and listing must not wait for it."""
    import subprocess
    import sys

    code = (
        "import sys; from influence_assets.assets import asset_graph; asset_graph();"
        "import influence_assets.engine.bring_up, influence_assets.upkeep.garbage;"
        "assert not {'torch', 'transformers', 'dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
