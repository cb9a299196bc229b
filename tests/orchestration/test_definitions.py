"""What Dagster loads: fast, for one study or several, from the environment."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from influence_assets.assets import asset_graph
from influence_assets.errors import InputError
from influence_assets.orchestration.definitions import build_definitions, studies_from_environment
from influence_assets.orchestration.jobs import asset_job_name, build_asset_jobs
from influence_assets.study import Study
from tests import studies

ROOT = Path(__file__).parents[2]
SOURCES = ["corpus", "model_files", "query_files", "questions", "source_files"]


def loaded(environment):
    """Load definitions.py in a fresh process and print what that dragged in."""
    code = (
        "import sys, definitions\n"
        "print(sorted({'torch', 'transformers', 'altair', 'scipy'} & set(sys.modules)))\n"
        "print(len(definitions.defs.resolve_asset_graph().get_all_asset_keys()))"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "INFLUENCE_STUDY"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False
    )


def test_definitions_load_without_torch(tmp_path):
    path = studies.lay_out(tmp_path)
    ended = loaded({"INFLUENCE_STUDY": str(path)})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["[]", str(len(studies.shown()) + len(SOURCES))]
    assert not (tmp_path / "store").exists(), "looking at the graph computes and creates nothing"


@pytest.mark.slow
def test_several_studies_are_named_as_in_path(tmp_path):
    first, second = studies.lay_out(tmp_path / "one"), studies.lay_out(tmp_path / "two")
    second.write_text(second.read_text(encoding="utf-8").replace("name: tiny", "name: other"), encoding="utf-8")
    ended = loaded({"INFLUENCE_STUDY": os.pathsep.join([str(first), str(second)])})
    assert ended.stdout.splitlines() == ["[]", str(2 * (len(studies.shown()) + len(SOURCES)))], ended.stderr


def test_without_a_study_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("INFLUENCE_STUDY", raising=False)
    with pytest.raises(InputError, match=r"INFLUENCE_STUDY: no study is named\. .*influence ui --study"):
        studies_from_environment()


def test_two_studies_of_one_name_are_refused(tmp_path):
    study = Study.load(studies.write_study(tmp_path))
    with pytest.raises(InputError, match=r"two studies have the same name among \['tiny', 'tiny'\]"):
        build_definitions([study, study])


def test_all_that_dagster_loads_is_valid(tmp_path):
    study = Study.load(studies.write_study(tmp_path))
    dg.Definitions.validate_loadable(build_definitions([study]))


def test_every_asset_is_in_the_job_of_its_kind_of_partition(tmp_path):
    study = Study.load(studies.write_study(tmp_path))
    graph = build_definitions([study]).resolve_asset_graph()
    covered = {job.name: {key.path[-1] for key in job.selection.resolve(graph)} for job in build_asset_jobs(study)}
    assert covered == {
        asset_job_name(study, kind): {
            asset.name for asset in asset_graph() if asset.partitioned_by == kind and studies.is_due(asset)
        }
        for kind in ("none", "shard", "query_set", "pair")
    } | {
        f"tiny_materialize_{asset.name}": {asset.name}
        for asset in asset_graph()
        if asset.is_shown_in(study) and not studies.is_due(asset)
    }


@pytest.mark.parametrize("methods", [["ekfac"], ["ekfac", "bm25"], ["ekfac", "repsim", "conjugate_gradients"]])
def test_assets_of_methods_are_those_of_the_methods_that_a_study_lists(tmp_path, methods):
    definitions = build_definitions([Study.load(studies.write_study(tmp_path, methods=methods))])
    dg.Definitions.validate_loadable(definitions)
    shown = {key.path[-1] for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    of_methods = {asset.name for asset in asset_graph() if asset.only_by_settings}
    expected = {
        "bm25": {"bm25_scores", "term_counts"},
        "repsim": {"repsim_scores", "hidden_states", "query_states"},
        "conjugate_gradients": {"method_scores", "method_vectors"},
    }
    assert shown & of_methods == {name for method in methods for name in expected.get(method, ())}
    assert shown >= {"influence_scores", "retrained_models", "evaluations", "self_influence"}


def test_two_studies_in_one_workspace_keep_their_partitions_and_results_apart(tmp_path):
    paths = [studies.lay_out(tmp_path / name) for name in ("one", "two")]
    paths[1].write_text(paths[1].read_text(encoding="utf-8").replace("name: tiny", "name: other"), encoding="utf-8")
    studies.write_extra(paths[1])
    definitions = build_definitions([Study.load(path) for path in paths])
    with dg.DagsterInstance.ephemeral() as instance:
        for name in ("tiny", "other"):
            sensor = definitions.resolve_sensor_def(f"{name}_files")
            tick = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, definitions=definitions))
            for request in tick.dynamic_partitions_requests:
                instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        assert instance.get_dynamic_partitions("tiny_shards") == list(studies.SHARDS)
        assert set(instance.get_dynamic_partitions("other_shards")) == {studies.EXTRA, *studies.SHARDS}
        for name in ("tiny", "other"):
            job = definitions.resolve_job_def(f"{name}_materialize_shards")
            documents = [dg.AssetKey([name, "documents"])]
            done = job.execute_in_process(instance=instance, partition_key=studies.COAST, asset_selection=documents)
            assert done.success
        keys = set(instance.all_asset_keys())
    assert keys == {dg.AssetKey(["tiny", "documents"]), dg.AssetKey(["other", "documents"])}
    for path in paths:
        assert studies.artifact(path, "documents", shard=studies.COAST).folder.is_relative_to(path.parent)
