"""What is outstanding and why, as `influence status` and the table `partition_states` say it."""

import dataclasses

import pytest

from influence_assets.assets import GROUPS, asset_graph, open_workspace
from influence_assets.engine.graph import AssetGraph
from influence_assets.engine.plan import plan, state_rows
from influence_assets.engine.versions import Versions
from influence_assets.engine.workspace import Workspace
from influence_assets.study import Study
from influence_assets.upkeep.forget import withdraw
from tests import studies
from tests.studies import COAST, EXTRA, FIRST, SECOND, TRADES


def states(study, versions=None):
    """(state, cause) of every partition that does not stand."""
    found = (partition for step in plan(versions or studies.versions_of(study)) for partition in step.outstanding)
    return {studies.label(state.asset, state.partition): (state.state, state.cause) for state in found}


def not_waiting(study, versions=None):
    return {name: said for name, said in states(study, versions).items() if said[0] != "waiting"}


def test_nothing_is_outstanding_of_what_stands(standing):
    assert states(standing) == {}
    rows = state_rows(list(plan(studies.versions_of(standing))))
    assert set(rows["state"]) == {"standing"}
    assert rows["data_version"].equals(rows["standing_data_version"])
    assert rows.drop("data_version", "standing_data_version").rows() == [
        (state.asset.name, state.partition.key, "standing", None)
        for step in plan(studies.versions_of(standing))
        for state in step.partitions
    ]


def test_of_a_fresh_study_the_sources_steps_are_missing_and_all_else_waits(tmp_path):
    study = studies.lay_out(tmp_path)
    found = states(study)
    missing = {name for name, (state, _) in found.items() if state == "missing"}
    assert missing == {f"documents[{COAST}]", f"documents[{TRADES}]", "language_model"}
    assert {found[name][1] for name in missing} == {"was never computed"}
    assert {state for name, (state, _) in found.items() if name not in missing} == {"waiting"}
    assert found["eigenbases"][1] == "waits for covariances"
    pair = f"influence_scores[{FIRST}|{TRADES}]"
    assert found[pair][1] == f"waits for token_sequences[{TRADES}], language_model, eigenbases and 2 more"


def test_a_new_file_is_missing(study):
    studies.write_extra(study)
    assert not_waiting(study) == {f"documents[{EXTRA}]": ("missing", "was never computed")}
    found = states(study)
    assert found.keys() == studies.of_shard(EXTRA)
    assert found["curvature_drift"][1] == f"waits for drift_statistics[{EXTRA}]"


def test_a_changed_file_is_the_cause(study):
    studies.write_parquet(study.parent / "corpus" / TRADES, studies.TRADES_ROWS[:2])
    studies.write_jsonl(study.parent / "queries" / SECOND, [*studies.SECOND_ROWS, {"prompt": "A", "completion": " b"}])
    assert not_waiting(study) == {
        f"documents[{TRADES}]": ("stale", "its source file changed"),
        f"query_gradients[{SECOND}]": ("stale", "its query file changed"),
    }
    studies.compute(study, until="documents")
    said = not_waiting(study)[f"token_sequences[{TRADES}]"]
    assert said == ("stale", f"documents[{TRADES}] changed")


def test_a_vanished_file_is_the_cause(study):
    (study.parent / "corpus" / TRADES).unlink()
    found = not_waiting(study)
    assert found["curvature_drift"] == ("stale", f"drift_statistics[{TRADES}] changed")
    assert found[f"influence_details[{FIRST}]"][1].startswith(
        f"gradient_sketches[{TRADES}], influence_scores[{FIRST}|{TRADES}], "
    )


def test_other_weights_are_the_cause(study):
    studies.write_model(study.parent / "model", seed=1)
    assert not_waiting(study) == {"language_model": ("stale", "the model's files changed")}


@pytest.mark.parametrize("count", [1, 2])
def test_a_withdrawn_document_is_the_cause(study, count):
    ids = studies.ask_sql(study, "select document_id from documents where shard_id = $1", [COAST])["document_id"]
    withdraw(open_workspace(Study.load(study)), ids.to_list()[:count], "asked for")
    cause = "which of its documents are withdrawn changed"
    assert not_waiting(study) == {f"documents[{COAST}]": ("stale", cause)}


def test_a_changed_setting_is_the_cause(study):
    studies.write_study(study.parent, curvature={"damping_scale": 0.3}, sketches={"coordinates": 32})
    assert not_waiting(study) == {"curvature": ("stale", "the study's damping_scale changed")}
    studies.compute(study, until="curvature")
    said = not_waiting(study)
    assert said[f"query_gradients[{FIRST}]"] == ("stale", "curvature changed")
    assert said[f"gradient_sketches[{COAST}]"] == ("stale", "the study's coordinates changed")


def test_changed_code_is_the_cause(study):
    changed = dataclasses.replace(asset_graph()["gradient_sketches"], code_version="99")
    graph = AssetGraph([changed if asset.name == changed.name else asset for asset in asset_graph()], GROUPS)
    found = not_waiting(study, Versions(Workspace(Study.load(study), lambda: graph)))
    assert set(found) == {f"gradient_sketches[{shard}]" for shard in studies.SHARDS}
    assert set(found.values()) == {("stale", "its code now has version 99")}


def test_damage_is_the_cause(study):
    damaged = studies.artifact(study, "token_sequences", shard=COAST)
    store = studies.versions_of(study).workspace.store
    store.mark_damaged(damaged.folder, ["arrays"], "a chunk is torn")
    assert not_waiting(study) == {f"token_sequences[{COAST}]": ("stale", "its files are damaged")}
    studies.compute(study)
    assert states(study) == {}


def test_a_lost_catalogue_is_the_cause(study):
    studies.versions_of(study).workspace.catalogue.unlink()
    assert not_waiting(study) == {"influence_catalogue": ("stale", "its file is lost, damaged or of another time")}


def test_of_many_causes_a_few_are_named(tmp_path):
    study = studies.lay_out(tmp_path)
    for number in range(5):
        studies.write_jsonl(tmp_path / "corpus" / f"{number}.jsonl", [{"text": f"Lamp {number} is lit."}])
    said = states(study)["covariances"][1]
    assert said == "waits for language_model, token_sequences[0.jsonl], token_sequences[1.jsonl] and 5 more"
