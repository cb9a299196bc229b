"""Where the processes of the UI find modules: not in the current folder, but wherever else they were found before."""

import subprocess
import sys

from influence_assets.cli.commands.ui import isolated

LOADED = "from dagster._core.code_pointer import load_python_module; load_python_module({module!r}, None)"


def load(module, folder, environment):
    """Load a module as Dagster's code server does, from a folder; returns what went wrong."""
    command = [sys.executable, "-c", LOADED.format(module=module)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1:] if done.returncode else []


def test_modules_of_the_python_path_are_found_and_those_of_the_current_folder_are_not(tmp_path, monkeypatch):
    for name in ("path", "current"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of_{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    environment = isolated({"ADDED": "1"})
    assert environment["ADDED"] == "1"
    assert load("of_path", tmp_path / "current", environment) == []
    (problem,) = load("of_current", tmp_path / "current", environment)
    assert "No module named 'of_current'" in problem


def test_without_a_python_path_none_is_made(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "PYTHONPATH" not in isolated({})
