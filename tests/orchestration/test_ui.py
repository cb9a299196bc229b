"""Dagster's UI with our studies: started for real, its sensor, a partition launched by hand, all of it by itself."""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest
from serving import ROOT, SELECTOR, free_port, influence, serving

from tests import studies
from tests.studies import COAST, QUERY_SETS, SHARDS

pytestmark = pytest.mark.ui
PARTITIONS = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { partitionKeys } } }
"""
LAUNCH = """
mutation ($parameters: ExecutionParams!) { launchPipelineExecution(executionParams: $parameters) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
MATERIALIZATIONS = """
query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset { assetMaterializations {
  runId partition tags { key value } metadataEntries { label } } } } }
"""
CHECKS = """
query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } } }
"""
STALE = """
query ($key: AssetKeyInput!, $partition: String) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  staleCauses(partition: $partition) { reason } } } }
"""
RUNS = "{ runsOrError { ... on Runs { results { status } } } }"


def key(step):
    return {"path": [studies.NAME, step]}


def partitions(server, step):
    return server.ask(PARTITIONS, key=key(step))["assetNodeOrError"]["partitionKeys"]


def marks(server):
    """Why the UI shows anything as outdated, by asset."""
    found = {}
    for step in studies.shown():
        keys = partitions(server, step.name) or [None]
        nodes = [server.ask(STALE, key=key(step.name), partition=part)["assetNodeOrError"] for part in keys]
        found[step.name] = {cause["reason"] for node in nodes for cause in node["staleCauses"]}
    return found


def assert_guarded(server):
    """A page of another site cannot make the UI obey, by GET, across origins or under another name; our own can."""
    ask = urllib.parse.quote("mutation { reloadWorkspace { __typename } }")
    body = json.dumps({"query": "{ version }"}).encode()
    own = {"Content-Type": "application/json", "Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    cases = [
        (200, "/graphql", body, own),
        (200, "/", None, {}),
        (403, f"/graphql?query={ask}", None, {}),
        (403, "/graphql", body, own | {"Origin": "https://other.example"}),
        (403, "/graphql", body, own | {"Sec-Fetch-Site": "cross-site"}),
        (403, "/", None, {"Host": "rebound.example"}),
    ]
    for status, path, sent, headers in cases:
        request = urllib.request.Request(f"{server.url}{path}", sent, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                found = response.status
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == status, (path, headers)


def finished(server):
    runs = server.ask(RUNS)["runsOrError"]["results"]
    return [run for run in runs if run["status"] not in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED")]


@pytest.mark.soak
def test_a_partition_is_launched_from_the_ui_that_our_command_starts(tmp_path):
    study = studies.lay_out(tmp_path)
    port = free_port()
    with serving(*influence("ui", "--study", str(study), "--port", str(port)), folder=tmp_path, port=port) as server:
        server.wait(lambda: partitions(server, "documents") == list(SHARDS))  # by the sensor, in the daemon
        parameters = {
            "selector": {
                **SELECTOR,
                "pipelineName": f"{studies.NAME}_materialize_shards",
                "assetSelection": [key("documents")],
            },
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": COAST}]},
        }
        launched = server.ask(LAUNCH, parameters=parameters)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id = launched["run"]["runId"]

        def ended():
            status = server.ask(RUN, id=run_id)["runOrError"]["status"]
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        assert server.wait(ended) == "SUCCESS"
        (materialization,) = server.ask(MATERIALIZATIONS, key=key("documents"))["assetOrError"]["assetMaterializations"]
    assert (materialization["runId"], materialization["partition"]) == (run_id, COAST)
    tags = {tag["key"]: tag["value"] for tag in materialization["tags"]}
    stored = studies.artifact(study, "documents", shard=COAST)
    assert tags["dagster/data_version"] == stored.key.data_version
    assert stored.manifest.run_id == run_id
    assert {"documents", "first_documents"} <= {entry["label"] for entry in materialization["metadataEntries"]}


@pytest.mark.soak
def test_a_bare_dagster_dev_in_the_project_finds_the_same_location(tmp_path):
    """Under the same name, so that the UI shows one history. Dagster finds workspace.yaml without `-w` too."""
    study = studies.lay_out(tmp_path)
    (tmp_path / "home").mkdir()
    for name in ("definitions.py", "workspace.yaml", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)]
    environment = {"INFLUENCE_STUDY": str(study), "DAGSTER_HOME": str(tmp_path / "home")}
    with serving(*command, folder=tmp_path, port=port, environment=environment) as server:
        pairs = [f"{query_set}|{shard}" for query_set in QUERY_SETS for shard in SHARDS]
        server.wait(lambda: partitions(server, "influence_scores") == pairs)


def test_a_study_completes_by_itself_while_the_ui_is_open(tmp_path):
    """Nothing but the UI's daemon: the sensor registers, observes and requests, one run computes, SQL answers."""
    study = studies.lay_out(tmp_path)
    (tmp_path / "corpus" / studies.TRADES).unlink()
    (tmp_path / "queries" / studies.SECOND).unlink()
    studies.write_study(tmp_path, automation={"enabled": True, "interval_seconds": 1})
    port = free_port()
    catalogue = tmp_path / "store" / "influence.duckdb"
    with serving(*influence("ui", "--study", str(study), "--port", str(port)), folder=tmp_path, port=port) as server:
        server.wait(catalogue.exists)
        assert_guarded(server)

        def checked():
            node = server.ask(CHECKS, key=key("influence_catalogue"))["assetNodeOrError"]
            executions = [c["executionForLatestMaterialization"] for c in node["assetChecksOrError"]["checks"]]
            statuses = {execution["status"] if execution else None for execution in executions}
            return None if statuses & {None, "IN_PROGRESS"} else statuses

        assert server.wait(checked) == {"SUCCEEDED"}
        assert marks(server) == {step.name: set() for step in studies.shown()}

        # A file more: seen, computed and published, and nothing is marked.
        studies.write_extra(study)
        server.wait(lambda: len(studies.scores(study)) > 2 * 10)
        server.wait(lambda: [run["status"] for run in finished(server)] == ["SUCCESS", "SUCCESS"])
        assert marks(server) == {step.name: set() for step in studies.shown()}
    assert studies.compute(study) == []
