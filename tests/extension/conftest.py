"""Ways to bring an example into the package: a folder that the environment names, and an entry point."""

import os
import sys
from pathlib import Path

import pytest

from influence_assets.extensions import EXTENSIONS
from tests.extension import installed

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

    def install(example: str, room: str) -> None:
        (file,) = (HERE / example / room.rpartition(".")[2]).glob("*.py")
        monkeypatch.syspath_prepend(str(installed.install(tmp_path / "site", room, file)))
        monkeypatch.delitem(sys.modules, f"made_up_{file.stem}", raising=False)

    return install
