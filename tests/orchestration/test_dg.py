"""The command `dg`: on this project from its root, and on a project of somebody else with a study as a component."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from influence_assets.orchestration import InfluenceStudy
from influence_assets.orchestration.instance import default_settings
from tests import studies

ROOT = Path(__file__).parents[2]
COMPONENT = "influence_assets.orchestration.InfluenceStudy"


def attributes(path):
    """A study as the attributes of a component."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_component_has_the_definitions_of_its_study(tmp_path):
    described = attributes(studies.lay_out(tmp_path))
    component = InfluenceStudy.from_attributes_dict(attributes=described)
    definitions = component.build_defs(dg.ComponentTree.for_test().load_context.for_path(tmp_path))
    keys = {key.path[-1] for key in definitions.resolve_asset_graph().materializable_asset_keys}
    assert keys == {asset.name for asset in studies.shown()}
    assert [sensor.name for sensor in definitions.sensors] == [f"{studies.NAME}_files"]
    assert not (tmp_path / "store").exists(), "looking at the graph computes and creates nothing"


@pytest.fixture
def run_dg(tmp_path):
    """Runs `dg` with an instance of its own, and returns what it prints; it must end well unless told otherwise."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(default_settings(), encoding="utf-8")

    def run(*arguments, folder, succeeds=True, environment=None):
        inherited = {name: value for name, value in os.environ.items() if name != "INFLUENCE_STUDY"}
        command = [sys.executable, "-c", "from dagster_dg_cli.cli import main; main()", *arguments]
        ended = subprocess.run(
            command,
            cwd=folder,
            env=inherited | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT), "VIRTUAL_ENV": sys.prefix}
            | (environment or {}),
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert (ended.returncode == 0) == succeeds, ended.stdout + ended.stderr
        return ended.stdout if arguments[-1] == "--json" else ended.stdout + ended.stderr

    return run


@pytest.mark.slow
def test_dg_works_from_the_root_of_this_project(tmp_path, run_dg):
    study = studies.lay_out(tmp_path)
    environment = {"INFLUENCE_STUDY": str(study)}
    assert "All definitions loaded successfully." in run_dg("check", "defs", folder=ROOT, environment=environment)
    listed = json.loads(run_dg("list", "defs", "--json", folder=ROOT, environment=environment))
    assert f"{studies.NAME}_bring_up_to_date" in {job["name"] for job in listed["jobs"]}
    job = f"{studies.NAME}_bring_up_to_date"
    run_dg("launch", "--job", job, folder=ROOT, environment=environment)
    assert studies.compute(study) == []


@pytest.mark.soak
def test_a_study_is_a_component_of_a_project_that_create_dagster_makes(tmp_path, run_dg):
    command = [sys.executable, "-c", "from create_dagster.cli import main; main()"]
    created = subprocess.run(
        [*command, "project", "attribution", "--no-uv-sync"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"DAGSTER_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert created.returncode == 0, created.stdout + created.stderr
    project = tmp_path / "attribution"
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(project / "src")])}
    folder = project / "src" / "attribution" / "defs" / "tiny"
    study = studies.lay_out(folder)
    described = attributes(study) | {"storage": {"root": str(tmp_path / "store")}}
    study.unlink()

    def write(attributes):
        text = yaml.safe_dump({"type": COMPONENT, "attributes": attributes})
        (folder / "defs.yaml").write_text(text, encoding="utf-8")

    write(described | {"copus": described["corpus"]})
    assert "copus" in run_dg("check", "yaml", folder=project, succeeds=False, environment=environment)
    write(described)
    run_dg("check", "yaml", folder=project, environment=environment)
    listed = json.loads(run_dg("list", "defs", "--json", folder=project, environment=environment))
    assert f"{studies.NAME}/influence_scores" in {asset["asset_key"] for asset in listed["assets"]}
    run_dg("launch", "--assets", f'key:"{studies.NAME}/language_model"', folder=project, environment=environment)
    assert list((tmp_path / "store" / "language_model").rglob("manifest.json")), "it stands, where the attributes say"
