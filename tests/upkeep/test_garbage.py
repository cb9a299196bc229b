"""What a collection takes and what it leaves."""

import hashlib

import pytest

from influence_assets.assets import open_workspace
from influence_assets.errors import StorageError
from influence_assets.storage.catalogue import loaded_keys, run_checks
from influence_assets.study import Study
from influence_assets.upkeep.forget import withdraw
from influence_assets.upkeep.garbage import collect
from influence_assets.upkeep.holders import holders
from tests import studies
from tests.studies import COAST, EXTRA, SHARDS, TRADES

FITTED = "select partition, is_loaded from materializations where asset = 'token_sequences' order by all"


def workspace(study):
    return open_workspace(Study.load(study))


def held(study, asset, partition):
    """How many versions of a partition are in the store."""
    return len(list(workspace(study).store.manifests(asset, partition)))


def contents(folder):
    """Every file below a folder, by content; what locks leave is no content, and caches come and go with the clock."""
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size and path.parent.name != ".cache"
    }


def change(study, number=0):
    """Other documents in one file."""
    rows = [*studies.TRADES_ROWS[:2], {"text": f"The cooper bends stave {number} over a fire."}]
    studies.write_parquet(study.parent / "corpus" / TRADES, rows)
    studies.compute(study)


def assert_whole(study):
    """Everything stands, every check of the catalogue holds, and so does all that is stored."""
    assert studies.compute(study) == []
    found = workspace(study)
    assert {name for name, rows in run_checks(found.catalogue).items() if rows.height} == set()
    assert list(found.store.verify()) == []
    studies.assert_no_stale_row(study)


def test_there_is_nothing_to_collect_of_what_stands(study):
    collected = collect(workspace(study), keep=0)
    assert (collected.removed, collected.reduced, collected.kept_back, collected.bytes) == ([], [], [], 0)
    assert_whole(study)


@pytest.mark.soak
def test_so_many_superseded_versions_are_kept_the_last_ones(study):
    versions = [studies.artifact(study, "gradient_sketches", shard=TRADES).key]
    for number in range(3):
        change(study, number)
        versions.append(studies.artifact(study, "gradient_sketches", shard=TRADES).key)
    scores = studies.scores(study)
    for keep in (2, 1, 0):
        collected = collect(workspace(study), keep=keep)
        assert not collected.reduced
        assert collected.bytes > 0
        store = workspace(study).store
        assert [store.holds(key) for key in versions] == [number >= 3 - keep for number in range(4)]
        # Of three that are superseded the first is what the generation was fitted on, and stays.
        assert held(study, "token_sequences", TRADES) == 2 + min(keep, 2)
        assert held(study, "documents", COAST) == 1
    assert studies.scores(study) == scores
    assert_whole(study)


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_says_what_the_real_one_does(study):
    change(study)
    before = contents(study.parent / "store")
    would = collect(workspace(study), keep=0, dry_run=True)
    assert contents(study.parent / "store") == before
    did = collect(workspace(study), keep=0)
    assert would.removed == did.removed != []
    assert would.reduced == did.reduced == []
    assert 0 < would.bytes <= did.bytes
    assert contents(study.parent / "store").keys() < before.keys()


@pytest.mark.slow
def test_what_published_rows_lead_to_stays(study):
    """The sequences that a generation was fitted on, whose files have all changed since, and their documents."""
    change(study)
    studies.write_jsonl(study.parent / "corpus" / COAST, studies.COAST_ROWS[:2])
    studies.compute(study)
    collect(workspace(study), keep=0)
    assert studies.ask_sql(study, FITTED).rows() == [
        (COAST, False), (COAST, True), (TRADES, False), (TRADES, True),
    ]  # fmt: skip
    generation = studies.artifact(study, "eigenbases").manifest
    store = workspace(study).store
    unseen = list(generation.inputs)
    while unseen:
        key = unseen.pop()
        assert store.holds(key) or key.asset == "covariances", key
        unseen += store.manifest(key).inputs
    assert_whole(study)
    # So the generation can be damped anew.
    studies.write_study(study.parent, curvature={"damping_scale": 0.3})
    studies.compute(study)
    assert studies.ask_sql(study, "select generation_id from generations").rows() == [(1,)]


@pytest.mark.slow
def test_a_generation_that_is_being_filled_stays(study):
    studies.compute(study, new_generation=True, until="curvature")
    assert collect(workspace(study), keep=0).removed == []
    rest = studies.compute(study)
    assert "eigenbases" not in rest
    assert "curvature" not in rest
    assert studies.ask_sql(study, "select max(generation_id) from generations").item() == 2


@pytest.mark.soak
def test_of_generations_that_are_published_no_more_nothing_is_left(study):
    for _ in range(2):
        studies.compute(study, new_generation=True)
    collect(workspace(study), keep=0)
    numbers = [m.summary["generation_id"] for m in workspace(study).store.manifests("eigenbases", with_records=True)]
    assert sorted(numbers) == [2, 3]
    assert_whole(study)
    studies.compute(study, new_generation=True)
    assert studies.ask_sql(study, "select max(generation_id) from generations").item() == 4, "no number comes twice"


@pytest.mark.slow
def test_what_is_withdrawn_goes_whatever_is_kept(study):
    ids = studies.ask_sql(study, "select document_id from documents where title = 'Fog'")["document_id"].to_list()
    withdraw(workspace(study), ids, "asked for")
    first = collect(workspace(study), keep=5)
    published = set(loaded_keys(workspace(study).catalogue))
    assert set(first.kept_back) == {key for key in published if of_coast(key)}, "not before readers lose it"
    studies.compute(study)
    second = collect(workspace(study), keep=5)
    assert second.kept_back == []
    assert second.catalogue_rebuilt
    assert all(of_coast(key) for one in (first, second) for key in [*one.reduced, *one.removed])
    # Of what the generation was fitted on, lineage stays, and nothing else.
    store = workspace(study).store
    recorded = [m.key for m in store.manifests(with_records=True) if not store.holds(m.key)]
    fitted_on = ["documents", "token_sequences"]
    of_shard = [(asset, COAST) for asset in fitted_on]
    assert [(key.asset, key.partition) for key in recorded] == [("covariances", None), *of_shard]
    for asset in (*fitted_on, "gradient_sketches"):
        assert held(study, asset, COAST) == 1, asset
    assert_whole(study)


def of_coast(key):
    return key.asset == "influence_details" or (key.partition or "").rpartition("|")[2] == COAST


@pytest.mark.soak
def test_a_generation_is_damped_anew_with_all_that_it_was_fitted_on(study):
    """Λ is one total over all shards. What was withdrawn since is in it, and `forget` says so while it is kept."""
    ids = studies.ask_sql(study, "select document_id from documents where title = 'Fog'")["document_id"].to_list()
    withdraw(workspace(study), ids, "asked for")
    studies.compute(study)
    collect(workspace(study), keep=0)
    studies.write_study(study.parent, curvature={"damping_scale": 0.3})
    studies.compute(study)
    assert studies.ask_sql(study, "select generation_id, damping_scale from generations").rows() == [(1, 0.3)]
    assert {holder.key.asset for holder in holders(workspace(study), ids)} == {
        "corrected_eigenvalues",
        "curvature",
        "eigenbases",
    }
    assert_whole(study)
    studies.compute(study, new_generation=True)
    studies.compute(study, new_generation=True)
    collect(workspace(study), keep=0)
    assert holders(workspace(study), ids) == []


@pytest.mark.slow
def test_of_a_vanished_file_nothing_is_left_and_when_it_returns_it_is_computed(study):
    scores = studies.scores(study)
    studies.write_extra(study)
    studies.compute(study)
    (study.parent / "corpus" / EXTRA).unlink()
    studies.compute(study)
    collected = collect(workspace(study), keep=5)
    assert collected.reduced == [], "no generation was fitted on it"
    for asset in ("documents", "token_sequences", "gradient_sketches"):
        assert held(study, asset, EXTRA) == 0
    assert_whole(study)
    assert studies.scores(study) == scores
    studies.write_extra(study)
    # What is merged over shards holds nothing of one of them, and was kept.
    assert set(studies.compute(study)) == studies.of_shard(EXTRA) - {"curvature_drift"}
    assert_whole(study)


@pytest.mark.soak
def test_no_folder_is_left_empty(study):
    change(study)
    (study.parent / "corpus" / TRADES).unlink()
    studies.compute(study)
    collect(workspace(study), keep=0)
    store = study.parent / "store"
    visible = [path for path in store.rglob("*") if not any(p.startswith(".") for p in path.relative_to(store).parts)]
    assert [path for path in visible if path.is_dir() and not any(path.iterdir())] == []


@pytest.mark.slow
def test_while_somebody_is_at_work_nothing_is_collected(study):
    change(study)
    before = contents(study.parent / "store")
    with workspace(study).store.shared_lock(), pytest.raises(StorageError, match=r"at work|in use") as refused:
        collect(workspace(study), keep=0)
    assert "again" in str(refused.value)
    assert contents(study.parent / "store") == before
    assert collect(workspace(study), keep=0).removed


@pytest.mark.soak
def test_a_study_without_a_catalogue_can_be_collected(tmp_path):
    study = studies.lay_out(tmp_path)
    studies.compute(study, until="covariances")
    assert collect(workspace(study), keep=0).removed == []
    assert set(studies.compute(study)) >= {"eigenbases", "influence_catalogue"}
    assert held(study, "documents", SHARDS[0]) == 1
