"""What is computed again, and what is not: after a new, changed or vanished file, other weights, another setting."""

import os
import shutil
import time

import pytest

from influence_assets.assets import asset_graph
from influence_assets.engine.materialise import materialise
from influence_assets.engine.partitions import Partition
from influence_assets.errors import InputError, StorageError
from tests import studies
from tests.closeness import assert_same_scores
from tests.studies import COAST, EXTRA, FIRST, SECOND, SHARDS, TRADES


def test_a_second_run_computes_nothing(standing):
    assert studies.compute(standing) == []


def test_a_new_file_computes_its_own_partitions_alone(study):
    before = studies.scores(study)
    studies.write_extra(study)
    assert sorted(studies.compute(study)) == sorted(studies.of_shard(EXTRA))
    after = studies.scores(study)
    assert {pair: after[pair] for pair in before} == before
    assert len(after) > len(before)
    studies.assert_no_stale_row(study)
    assert studies.compute(study) == []


@pytest.mark.slow
def test_scores_of_a_new_file_are_those_of_a_run_from_scratch_in_the_same_generation(study, tmp_path_factory):
    """The generation is the fitted curvature: a new store is handed that alone, and computes all the rest."""
    studies.write_extra(study)
    studies.compute(study)
    fresh = studies.lay_out(tmp_path_factory.mktemp("fresh"))
    studies.write_extra(fresh)
    for asset in ("eigenbases", "curvature"):
        shutil.copytree(study.parent / "store" / asset, fresh.parent / "store" / asset)
    computed = set(studies.compute(fresh))
    assert computed == studies.everything([*SHARDS, EXTRA], but=["covariances", "eigenbases", "curvature"])
    assert_same_scores(studies.scores(fresh), studies.scores(study))


@pytest.mark.slow
def test_new_questions_compute_their_own_partitions_alone(study):
    rows_ = [{"prompt": "The smith heats", "completion": " the iron"}]
    studies.write_jsonl(study.parent / "queries" / "third.jsonl", rows_)
    expected = {"query_gradients[third.jsonl]", "influence_details[third.jsonl]", "influence_catalogue"}
    expected |= {f"{scores}[third.jsonl|{shard}]" for scores in studies.SCORES for shard in SHARDS}
    assert set(studies.compute(study)) == expected


@pytest.mark.slow
def test_other_weights_under_the_same_path_change_every_version_downstream(study):
    before, scores = studies.data_versions(study), studies.scores(study)
    studies.write_model(study.parent / "model", seed=1)
    assert set(studies.compute(study)) == studies.everything(but=["documents"])
    after = studies.data_versions(study)
    assert after.keys() == before.keys()
    unchanged = {name for name in after if after[name] == before[name]}
    assert unchanged == {f"documents[{shard}]" for shard in SHARDS}
    assert studies.ask_sql(study, "select generation_id from generations")["generation_id"].to_list() == [2]
    assert set(studies.scores(study).values()).isdisjoint(scores.values())
    studies.assert_no_stale_row(study)


@pytest.mark.soak
def test_another_tokenizer_under_the_same_path_changes_every_version_downstream(study):
    before = studies.data_versions(study)
    saved = (study.parent / "model" / "tokenizer.json").read_text(encoding="utf-8")
    studies.tokenizer(vocabulary=280).save(str(study.parent / "model" / "tokenizer.json"))
    assert set(studies.compute(study)) == studies.everything(but=["documents"])
    after = studies.data_versions(study)
    assert {name for name in after if after[name] == before[name]} == {f"documents[{shard}]" for shard in SHARDS}
    (study.parent / "model" / "tokenizer.json").write_text(saved, encoding="utf-8")
    assert studies.compute(study) == ["influence_catalogue"]
    assert studies.data_versions(study) == before


@pytest.mark.soak
def test_another_damping_leaves_the_statistics_alone_and_can_be_taken_back(study):
    before, scores = studies.data_versions(study), studies.scores(study)
    studies.write_study(study.parent, curvature={"damping_scale": 0.5})
    statistics = ["covariances", "eigenbases", "corrected_eigenvalues", "drift_statistics", "curvature_drift"]
    kept = ["documents", "language_model", "token_sequences", *statistics]
    assert set(studies.compute(study)) == studies.everything(but=kept)
    assert studies.scores(study) != scores
    studies.assert_no_stale_row(study)
    studies.write_study(study.parent)
    assert studies.compute(study) == ["influence_catalogue"], "all but the file to publish was there already"
    assert studies.data_versions(study) == before
    assert studies.scores(study) == scores


@pytest.mark.parametrize(
    ("section", "keys", "kept"),
    [
        ("compute", {"batch_sequences": 3}, None),
        ("automation", {"interval_seconds": 7}, None),
        ("corpus", {"max_document_bytes": 1000}, None),
        ("scores", {"details_per_query": 1}, {"influence_details", "influence_catalogue"}),
        ("sketches", {"coordinates": 32}, {"gradient_sketches", "influence_details", "influence_catalogue"}),
    ],
)
def test_a_setting_changes_only_what_it_matters_to(study, section, keys, kept):
    studies.write_study(study.parent, **{section: keys})
    assert {name.partition("[")[0] for name in studies.compute(study)} == (kept or set())


@pytest.mark.soak
def test_other_layers_are_another_generation(study):
    studies.write_study(study.parent, curvature={"modules": ["*.mlp.c_fc"]})
    assert set(studies.compute(study)) == studies.everything(but=["documents", "language_model", "token_sequences"])
    modules = studies.ask_sql(study, "select generation_id, module_name from modules order by module_name").rows()
    assert modules == [(2, "transformer.h.0.mlp.c_fc"), (2, "transformer.h.1.mlp.c_fc")]
    studies.write_study(study.parent)
    assert studies.compute(study) == ["influence_catalogue"]
    assert studies.ask_sql(study, "select distinct generation_id from current_scores").rows() == [(1,)]


def test_a_touched_file_computes_nothing(study):
    later = time.time() + 1000
    for path in study.parent.rglob("*"):
        if path.is_file() and "store" not in path.parts:
            os.utime(path, (later, later))
    assert studies.compute(study) == []


@pytest.mark.slow
def test_a_changed_file_replaces_its_rows(study):
    before = studies.scores(study)
    others = set(studies.sequences_of(study, TRADES))
    changed = [*studies.TRADES_ROWS[:1], {"text": "The cooper bends the staves over a fire.", "title": "Cooper"}]
    studies.write_parquet(study.parent / "corpus" / TRADES, changed)
    assert set(studies.compute(study)) == studies.of_shard(TRADES)
    titles = studies.ask_sql(study, "select title from documents where shard_id = $1 order by source_row", [TRADES])
    assert titles["title"].to_list() == ["Baker", "Cooper"]
    standing = studies.artifact(study, "token_sequences", shard=TRADES).table("sequences").collect()
    assert set(studies.sequences_of(study, TRADES)) == set(standing["sequence_id"])
    after = studies.scores(study)
    coast = set(studies.sequences_of(study, COAST))
    assert {pair: score for pair, score in before.items() if pair[1] in coast}.items() <= after.items()
    gone = others - set(standing["sequence_id"])
    assert gone
    assert not any(sequence in gone for _, sequence in after)
    studies.assert_no_stale_row(study)


@pytest.mark.slow
def test_the_rows_of_a_vanished_file_leave_and_come_back_with_it(study):
    before = studies.scores(study)
    path = study.parent / "corpus" / TRADES
    content = path.read_bytes()
    path.unlink()
    assert set(studies.compute(study)) == studies.ROLLED_UP
    for table in ("documents", "sequences", "shards"):
        shards = studies.ask_sql(study, f"select distinct shard_id from {table}")["shard_id"].to_list()
        assert shards == [COAST], table
    after = studies.scores(study)
    assert after == {pair: before[pair] for pair in after}
    assert {sequence for _, sequence in after} == set(studies.sequences_of(study, COAST))
    studies.assert_no_stale_row(study)
    path.write_bytes(content)
    assert studies.compute(study) == ["influence_catalogue"]
    assert studies.scores(study) == before


@pytest.mark.soak
def test_a_vanished_query_file_takes_its_rows_along(study):
    (study.parent / "queries" / FIRST).unlink()
    assert studies.compute(study) == ["influence_catalogue"]
    for table in ("queries", "current_scores", "layer_influence", "token_influence", "method_scores"):
        found = studies.ask_sql(study, f"select distinct query_id from {table}")
        assert found.height == 1, table
    studies.assert_no_stale_row(study)


@pytest.mark.soak
def test_a_model_that_moved_is_found_where_it_is_now(study):
    shutil.move(study.parent / "model", study.parent / "moved")
    studies.write_study(study.parent, model={"path": "moved"})
    studies.write_extra(study)
    assert set(studies.compute(study)) == studies.of_shard(EXTRA)


@pytest.mark.parametrize("asset", ["documents", "drift_statistics", "influence_scores", "influence_catalogue"])
def test_what_was_damaged_is_computed_again(study, asset):
    scores = studies.scores(study)
    partition = {"shard": COAST} if asset != "influence_catalogue" else {}
    partition |= {"query_set": FIRST} if asset == "influence_scores" else {}
    folder = studies.artifact(study, asset, **partition).folder
    (folder / "manifest.json").unlink()
    assert studies.compute(study) == [studies.label(asset_graph()[asset], Partition(**partition))]
    assert_same_scores(studies.scores(study), scores)


def test_a_lost_catalogue_is_loaded_again(study):
    scores = studies.scores(study)
    studies.versions_of(study).workspace.catalogue.unlink()
    assert studies.compute(study) == ["influence_catalogue"]
    assert studies.scores(study) == scores


@pytest.mark.slow
def test_query_sets_computed_apart_that_share_an_id_are_not_published_together(study):
    """The rows of a file that comes back were computed before: the catalogue is where they would meet others."""
    lamp, baker = studies.FIRST_ROWS
    queries = study.parent / "queries"
    studies.write_jsonl(queries / FIRST, [baker])
    studies.compute(study)
    studies.write_jsonl(queries / SECOND, [lamp])
    studies.compute(study)
    scores = studies.scores(study)
    studies.write_jsonl(queries / FIRST, [lamp, baker])
    with pytest.raises(
        InputError, match=r"first\.jsonl, row 1: query_id 'lamp' is that of .*second\.jsonl, row 1, too"
    ):
        studies.compute(study)
    assert studies.scores(study) == scores


def test_a_step_whose_inputs_are_missing_names_them(tmp_path):
    study = studies.lay_out(tmp_path)
    versions = studies.versions_of(study)
    step, partition = asset_graph()["token_sequences"], Partition(shard=COAST)
    with pytest.raises(StorageError, match=r"token_sequences needs documents\[letters/coast.jsonl\], language_model"):
        materialise(versions, step, partition, run_id=None, progress=lambda _done, _total: None)


def test_a_partition_whose_file_is_gone_says_so(study):
    """Its key stays registered with Dagster, where a person can still ask for it."""
    (study.parent / "corpus" / TRADES).unlink()
    with pytest.raises(InputError, match=r"trades\.parquet: this file no longer exists"):
        materialise(
            studies.versions_of(study), asset_graph()["documents"], Partition(shard=TRADES), run_id=None,
            progress=lambda _done, _total: None,
        )  # fmt: skip


@pytest.mark.slow
def test_a_trained_model_stays_when_files_come_and_settings_train_another(tmp_path):
    study = studies.lay_out(tmp_path)
    train = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 270, "epochs": 1}
    length = {"length": studies.CONTEXT}
    studies.write_study(tmp_path, model={"path": None, "train": train}, sequences=length)
    assert set(studies.compute(study)) == studies.everything()
    studies.write_extra(study)
    assert set(studies.compute(study)) == studies.of_shard(EXTRA)
    studies.write_study(tmp_path, model={"path": None, "train": train | {"seed": 1}}, sequences=length)
    assert set(studies.compute(study)) == studies.everything([*SHARDS, EXTRA], but=["documents"])
