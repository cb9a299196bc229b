"""What we use of Dagster beyond its documented API: in one module, and as that module says that it works."""

import ast
from pathlib import Path

import dagster as dg
import pytest

import influence_assets
from influence_assets.orchestration import private_api

PACKAGE = Path(influence_assets.__file__).parent
UNDOCUMENTED = {"event_log_storage", "daemon_cursor_storage", "run_storage", "create_run_for_job"}
"""Attributes of an instance that its reference does not list."""

UPSTREAM, KEY = dg.AssetKey(["study", "upstream"]), dg.AssetKey(["study", "asset"])
MATERIALIZED, OBSERVED = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def private_uses(path):
    """What a module uses of Dagster that is private: imports, and attributes of an instance."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dagster"):
            if any(part.startswith("_") for part in node.module.split(".")) or node.module.startswith("dagster_shared"):
                yield node.module
        elif isinstance(node, ast.Attribute) and node.attr in UNDOCUMENTED:
            yield node.attr


def test_no_other_module_uses_private_api():
    users = {path.name for path in PACKAGE.rglob("*.py") if list(private_uses(path))}
    assert users == {"private_api.py"}


def test_a_job_that_is_executed_here_is_a_run_of_a_code_location(instance):
    seen = []

    @dg.op
    def greet(context: dg.OpExecutionContext) -> None:
        seen.append(context.run_id)

    @dg.job(executor_def=dg.in_process_executor)
    def greeting() -> None:
        greet()

    assert private_api.execute_here(greeting, instance, {}, "somewhere")
    (run,) = instance.get_runs()
    assert (run.run_id, run.job_name, run.status) == (seen[0], "greeting", dg.DagsterRunStatus.SUCCESS)
    assert run.remote_job_origin.repository_origin.code_location_origin.location_name == "somewhere"
    # By this tag the UI finds the runs of a code location.
    wanted = dg.RunsFilter(tags={".dagster/repository": "__repository__@somewhere"})
    assert [found.run_id for found in instance.get_runs(wanted)] == [run.run_id]


def test_a_job_that_fails_says_so(instance):
    @dg.op
    def stumble() -> None:
        raise ValueError("a stone")

    @dg.job(executor_def=dg.in_process_executor)
    def walk() -> None:
        stumble()

    assert not private_api.execute_here(walk, instance, {}, "somewhere")


def test_versions_in_tags_are_those_that_dagster_reads(instance):
    tags = private_api.version_tags("code 7", "data 7")
    tags |= private_api.input_tags(UPSTREAM, data_version="data 3", event_id=12)
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY, tags=tags))

    @dg.asset(key=KEY, deps=[UPSTREAM], code_version="code 7")
    def asset(context: dg.AssetExecutionContext) -> None:
        provenance = context.get_asset_provenance(KEY)
        assert provenance is not None
        assert provenance.code_version == "code 7"
        assert {key: str(version.value) for key, version in provenance.input_data_versions.items()} == {
            UPSTREAM: "data 3"
        }
        assert provenance.input_storage_ids == {UPSTREAM: 12}

    assert dg.materialize([asset], instance=instance).success


def test_reported_versions_are_the_last_of_each_partition(instance):
    def report(event, version, partition=None):
        tags = {private_api.DATA_VERSION_TAG: version}
        instance.report_runless_asset_event(event(KEY, partition=partition, tags=tags))

    for event, kind in ((dg.AssetMaterialization, MATERIALIZED), (dg.AssetObservation, OBSERVED)):
        assert private_api.reported_versions(instance, KEY, kind) == {}
        report(event, "whole")
        assert private_api.reported_versions(instance, KEY, kind) == {"": "whole"}
    instance.wipe_assets([KEY])
    for event, kind in ((dg.AssetMaterialization, MATERIALIZED), (dg.AssetObservation, OBSERVED)):
        report(event, "old", "a")
        report(event, "new", "a")
        report(event, "other", "b")
        assert private_api.reported_versions(instance, KEY, kind) == {"a": "new", "b": "other"}


def test_the_last_event_is_counted(instance):
    before = private_api.last_event_id(instance)
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY))
    assert private_api.last_event_id(instance) == before + 1


def test_what_is_kept_is_found_again(instance):
    assert private_api.kept(instance, "key") is None
    private_api.keep(instance, "key", "one")
    private_api.keep(instance, "key", "two")
    assert private_api.kept(instance, "key") == "two"


def test_jobs_of_assets_are_what_dagster_makes():
    job = dg.define_asset_job("job", dg.AssetSelection.keys(KEY))
    assert isinstance(job, private_api.UnresolvedAssetJobDefinition)
