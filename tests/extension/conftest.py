"""Ways to bring a part into the package: a folder that the environment or a study names, and an entry point."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from influence_assets import extensions
from influence_assets.extensions import EXTENSIONS

PARTS = Path(__file__).parent / "parts"


@pytest.fixture(autouse=True)
def _no_extensions(monkeypatch):
    """No folder of another test."""
    monkeypatch.setattr(extensions, "_folders", {})
    monkeypatch.delenv(EXTENSIONS, raising=False)


@pytest.fixture
def parts(monkeypatch):
    """The folder of made-up parts, named by the environment."""
    monkeypatch.setenv(EXTENSIONS, str(PARTS))
    return PARTS


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs one of the made-up parts as a package would, by its room and its file's name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    points: list[EntryPoint] = []
    monkeypatch.setattr(extensions, "entry_points", lambda group: EntryPoints(points).select(group=group))

    def install(room: str, name: str) -> None:
        module = f"installed_{name}"
        (site / f"{module}.py").write_bytes((PARTS / room.rpartition(".")[2] / f"{name}.py").read_bytes())
        points.append(EntryPoint(name, module, room))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install
