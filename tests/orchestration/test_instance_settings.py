"""Whose settings Dagster's instance has: those of a store that comes from somebody else are code, and are not read."""

import dagster as dg
import pytest

from influence_assets.orchestration.instance import default_settings, open_instance
from influence_assets.study import Study
from tests import studies

FOREIGN = """
run_launcher:
  module: planted
  class: Launcher
"""
RAN = "planted_module_was_imported"


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A store's `.dagster` with settings that name a module, which leaves a trace if it is imported."""
    study = studies.write_study(tmp_path)
    home = tmp_path / "store" / ".dagster"
    home.mkdir(parents=True)
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "planted.py").write_text(f"open({str(tmp_path / RAN)!r}, 'w')\nLauncher = None\n")
    monkeypatch.syspath_prepend(str(modules))
    (home / "dagster.yaml").write_text(FOREIGN)
    return Study.load(study), home


def test_settings_inside_a_store_are_ours_whatever_lies_there(planted, tmp_path):
    study, home = planted
    with open_instance(study) as instance:
        assert instance.run_launcher.__class__.__name__ == "DefaultRunLauncher"
    assert (home / "dagster.yaml").read_text() == default_settings()
    assert (home / "dagster.yaml.not-read").read_text() == FOREIGN
    assert not (tmp_path / RAN).exists()


def test_a_link_to_other_settings_is_replaced_not_followed(planted, tmp_path):
    study, home = planted
    mine = tmp_path / "mine.yaml"
    mine.write_text(FOREIGN)
    (home / "dagster.yaml").unlink()
    (home / "dagster.yaml").symlink_to(mine)
    with open_instance(study):
        pass
    assert not (home / "dagster.yaml").is_symlink()
    assert mine.read_text() == FOREIGN


def test_settings_of_ones_own_are_read_from_ones_own_folder(planted, tmp_path, monkeypatch):
    study, _ = planted
    own = tmp_path / "own"
    own.mkdir()
    (own / "dagster.yaml").write_text("telemetry:\n  enabled: false\nnux:\n  enabled: true\n")
    monkeypatch.setenv("DAGSTER_HOME", str(own))
    with open_instance(study) as instance:
        assert instance.nux_enabled
    with dg.DagsterInstance.get() as instance:
        assert instance.root_directory == str(own)
