"""The wheel: what is installed from it finds its SQL and its Dagster settings."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOUND = """
import influence_assets
from influence_assets.orchestration.instance import default_settings
from influence_assets.storage.catalogue.statements import schema_version, statements

print(influence_assets.__file__)
print(schema_version())
for folder in ("schema", "load", "views", "checks", "cookbook"):
    print(folder, *statements(folder))
print(default_settings())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True, cwd=folder, capture_output=True)
    (built,) = folder.glob("influence_assets-*.whl")
    return built


def files(folder, suffix=""):
    """Files of the project as paths below it, without the caches of Python and its tools."""
    found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob(f"*{suffix}") if path.is_file())
    return {path.as_posix() for path in found if not any(part.startswith((".", "__pycache__")) for part in path.parts)}


def test_the_wheel_holds_the_package_its_sql_and_the_settings_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    expected = files("influence_assets") | {f"influence_assets/{name}" for name in files("sql", ".sql")}
    assert {"influence_assets/py.typed", "influence_assets/sql/views/top_influences.sql"} <= expected
    assert expected | {"influence_assets/dagster.yaml"} <= names
    assert {name.partition("/")[0] for name in names} == {"influence_assets"}


@pytest.mark.slow
def test_the_wheel_alone_finds_what_it_needs(wheel, tmp_path):
    """Unpacked where no checkout is near, the statements are those of the checkout."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "unpacked")
    found = {}
    for place in (tmp_path / "unpacked", ROOT):
        ended = subprocess.run(
            [sys.executable, "-c", FOUND],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(place)},
            capture_output=True,
            text=True,
            check=True,
        )
        where, found[place] = ended.stdout.split("\n", 1)
        assert where.startswith(f"{place}{os.sep}")
    assert found[tmp_path / "unpacked"] == found[ROOT]
    assert re.search(r"^views .*\bcurrent_scores ", found[ROOT], re.MULTILINE)
    assert "telemetry:\n  enabled: false" in found[ROOT]


def test_the_command_is_installed(wheel):
    with zipfile.ZipFile(wheel) as packed:
        (points,) = [name for name in packed.namelist() if name.endswith("entry_points.txt")]
        assert "influence = influence_assets.cli:main" in packed.read(points).decode()
