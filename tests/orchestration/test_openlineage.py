"""OpenLineage events reach a collector: a real server that keeps what it is sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from influence_assets.orchestration.bring_up import execute
from influence_assets.orchestration.session import Session
from influence_assets.study import Study
from tests import studies
from tests.studies import COAST, EXTRA, FIRST


class Collector(BaseHTTPRequestHandler):
    """Keeps the events that it is sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.received = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def study(standing, tmp_path):
    """A study that stands, with one file more."""
    path = studies.copied(standing, tmp_path)
    studies.write_extra(path)
    return path


def brought_up(path, url):
    """What a run of the study does that tells this collector."""
    studies.write_study(path.parent, model={"path": Study.load(path).model.path}, lineage={"openlineage_url": url})
    study = Study.load(path)
    session = Session(study)
    with dg.DagsterInstance.ephemeral() as instance:
        execute(study, instance, session, new_generation=False)
        (run,) = instance.get_run_ids()
    return session.result, run


@pytest.mark.slow
def test_a_collector_is_told_of_everything_that_was_computed(study, collector):
    result, run = brought_up(study, f"http://127.0.0.1:{collector.server_port}")
    computed = [studies.label(*done).replace("[", "/").rstrip("]") for done in result.computed]
    assert f"influence_scores/{FIRST}|{EXTRA}" in computed
    assert {path for path, _ in collector.received} == {"/api/v1/lineage"}
    told = [(event["outputs"][0]["name"], event["eventType"]) for _, event in collector.received]
    assert told == [(name, state) for name in computed for state in ("START", "COMPLETE")]
    events = {event["outputs"][0]["name"]: event for _, event in collector.received}
    scores = events[f"influence_scores/{FIRST}|{EXTRA}"]
    artifact = studies.artifact(study, "influence_scores", shard=EXTRA, query_set=FIRST)
    assert scores["job"]["name"] == f"{studies.NAME}.influence_scores"
    assert scores["run"]["facets"]["parent"]["run"]["runId"] == run
    assert scores["outputs"][0]["facets"]["version"]["datasetVersion"] == artifact.key.data_version
    assert scores["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == sum(artifact.manifest.rows.values())
    inputs = {told["name"]: told["facets"]["version"]["datasetVersion"] for told in scores["inputs"]}
    assert (
        inputs[f"token_sequences/{EXTRA}"] == studies.artifact(study, "token_sequences", shard=EXTRA).key.data_version
    )
    of_all = {"language_model", "eigenbases", "curvature"}
    assert inputs.keys() == {f"token_sequences/{EXTRA}", *of_all, f"query_gradients/{FIRST}"}


@pytest.mark.slow
def test_a_collector_that_is_down_holds_nothing_up(study, collector):
    port = collector.server_port
    collector.shutdown()
    collector.server_close()
    result, _ = brought_up(study, f"http://127.0.0.1:{port}")
    assert not result.failures
    assert not result.left_out
    assert studies.ask_sql(study, "select * from shards where shard_id = $shard", {"shard": COAST}).height == 1
