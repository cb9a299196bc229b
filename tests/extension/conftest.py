"""Ways to bring an example into the package: a folder that the environment names, and an entry point."""

import os
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from influence_assets import extensions
from influence_assets.extensions import EXTENSIONS

HERE = Path(__file__).parent


@pytest.fixture
def extend(monkeypatch):
    """Name an example's folder in the environment."""

    def extend(example: str) -> None:
        named = os.environ.get(EXTENSIONS)
        monkeypatch.setenv(EXTENSIONS, os.pathsep.join(filter(None, [named, str(HERE / example)])))

    return extend


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install an example of one file as a package would be, with its entry point."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    points: list[EntryPoint] = []
    monkeypatch.setattr(extensions, "entry_points", lambda group: EntryPoints(points).select(group=group))

    def install(example: str, room: str) -> None:
        (file,) = (HERE / example / room.rpartition(".")[2]).glob("*.py")
        module = f"installed_{file.stem}"
        (site / f"{module}.py").write_bytes(file.read_bytes())
        points.append(EntryPoint(example, module, room))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install
