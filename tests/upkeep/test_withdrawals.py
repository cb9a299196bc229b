"""Documents that are withdrawn, and files that vanish: what goes, what stays, and what it costs."""

import hashlib
import shutil
from datetime import UTC, datetime

import pytest

from influence_assets.assets import open_workspace
from influence_assets.study import Study
from influence_assets.upkeep.forget import reinstate, restore, retract, tombstones_of, withdraw
from influence_assets.upkeep.verify import verify
from tests import studies
from tests.closeness import FILES, assert_same_scores, assert_same_values, values_of
from tests.studies import COAST, EXTRA, TRADES

FOG, GULLS = studies.COAST_ROWS[2]["text"], studies.COAST_ROWS[3]["text"]
TOMBSTONES = "select shard_id, document_id, reason from tombstones order by all"


def document_id(text):
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def workspace(study):
    return open_workspace(Study.load(study))


def withdrawn(study, *texts, reason="asked for by its author"):
    assert len(withdraw(workspace(study), [document_id(text) for text in texts], reason)) == len(texts)


def documents(study):
    return set(studies.ask_sql(study, "select shard_id, document_id from documents").rows())


def ids(shard, rows):
    return {(shard, document_id(row["text"])) for row in rows}


EVERY = ids(COAST, studies.COAST_ROWS) | ids(TRADES, studies.TRADES_ROWS)


def test_ids_are_hashes_of_texts(standing):
    assert documents(standing) == EVERY


@pytest.mark.slow
def test_a_withdrawn_document_costs_its_shard_alone(study):
    before = studies.scores(study)
    withdrawn(study, FOG)
    assert sorted(studies.compute(study)) == sorted(studies.of_shard(COAST))
    assert documents(study) == EVERY - ids(COAST, [{"text": FOG}])
    assert studies.ask_sql(study, TOMBSTONES).rows() == [(COAST, document_id(FOG), "asked for by its author")]
    others = studies.sequences_of(study, TRADES)
    after = studies.scores(study)
    assert {pair: s for pair, s in after.items() if pair[1] in others} == {
        pair: s for pair, s in before.items() if pair[1] in others
    }
    spans = studies.ask_sql(
        study, "select document_id from sequence_documents where document_id = $1", [document_id(FOG)]
    )
    assert spans.is_empty()
    counts = studies.ask_sql(study, "select documents, withdrawn_documents from shards order by shard_id").rows()
    assert counts == [(3, 1), (3, 0)]
    studies.assert_no_stale_row(study)
    assert studies.compute(study) == []


def test_what_is_left_is_what_a_corpus_without_it_gives(study, tmp_path_factory):
    """In the same generation: token arrays, totals and scores are those of a file that never had the document."""
    withdrawn(study, FOG)
    studies.compute(study)
    other = studies.copied(study, tmp_path_factory.mktemp("without"))
    (other.parent / "store" / "withdrawn.jsonl").unlink()
    studies.write_jsonl(other.parent / "corpus" / COAST, [r for r in studies.COAST_ROWS if r["text"] != FOG])
    assert sorted(studies.compute(other)) == sorted(studies.of_shard(COAST))
    for step in ("token_sequences", "drift_statistics", "gradient_sketches"):
        one, same = (studies.artifact(path, step, shard=COAST) for path in (study, other))
        assert_same_values({**values_of(one), FILES: {}}, {**values_of(same), FILES: {}})
    assert_same_scores(studies.scores(study), studies.scores(other))


@pytest.mark.soak
def test_a_list_in_the_study_counts_as_the_stores_own(study):
    listed = study.parent / "withdrawn.txt"
    listed.write_text(f"{document_id(FOG)}  # by letter\n")
    studies.write_study(study.parent, corpus={"withdrawn": "withdrawn.txt"})
    assert set(studies.compute(study)) == studies.of_shard(COAST)
    (row,) = studies.ask_sql(study, "select document_id, removed_at from tombstones").rows()
    assert row[0] == document_id(FOG)
    assert abs((datetime.now(UTC) - row[1]).total_seconds()) < 3600, "without a date of its own, the day it went"
    assert studies.compute(study) == [], "and that day stays"
    assert studies.ask_sql(study, "select document_id, removed_at from tombstones").rows() == [row]
    # Taken off the list, it comes back: it was computed before, and the file still has it.
    listed.write_text("")
    assert studies.compute(study) == ["influence_catalogue"]
    assert studies.ask_sql(study, TOMBSTONES).is_empty()
    assert len(documents(study)) == 7


@pytest.mark.soak
def test_without_any_document_left_the_shard_goes(study):
    withdrawn(study, *(row["text"] for row in studies.TRADES_ROWS))
    assert set(studies.compute(study)) == studies.ROLLED_UP
    assert studies.ask_sql(study, "select shard_id from shards")["shard_id"].to_list() == [COAST]
    assert documents(study) == ids(COAST, studies.COAST_ROWS)
    assert {(shard, document) for shard, document, _ in studies.ask_sql(study, TOMBSTONES).rows()} == ids(
        TRADES, studies.TRADES_ROWS
    )
    studies.assert_no_stale_row(study)
    assert studies.compute(study) == []


@pytest.mark.slow
def test_a_withdrawn_text_is_left_out_of_files_that_come_later(study):
    withdrawn(study, FOG)
    studies.compute(study)
    studies.write_jsonl(study.parent / "corpus" / "later.jsonl", [{"text": FOG}, {"text": "The mist lifts at noon."}])
    assert set(studies.compute(study)) == studies.of_shard("later.jsonl")
    assert ("later.jsonl", document_id(FOG)) not in documents(study)
    assert ("later.jsonl", document_id("The mist lifts at noon.")) in documents(study)
    assert {shard for shard, *_ in studies.ask_sql(study, TOMBSTONES).rows()} == {COAST, "later.jsonl"}
    # A file with nothing else is no shard.
    studies.write_jsonl(study.parent / "corpus" / "again.jsonl", [{"text": FOG}])
    assert studies.compute(study) == ["influence_catalogue"]
    assert "again.jsonl" not in studies.ask_sql(study, "select shard_id from shards")["shard_id"].to_list()


@pytest.mark.soak
def test_the_rows_of_a_vanished_file_leave_tombstones_until_it_returns(study):
    before = studies.scores(study)
    path = study.parent / "corpus" / TRADES
    content = path.read_bytes()
    path.unlink()
    assert set(studies.compute(study)) == studies.ROLLED_UP
    expected = {(TRADES, document_id(row["text"]), "its source file vanished") for row in studies.TRADES_ROWS}
    assert set(studies.ask_sql(study, TOMBSTONES).rows()) == expected
    dates = studies.ask_sql(study, "select distinct removed_at from tombstones")
    studies.write_extra(study)
    studies.compute(study)
    assert studies.ask_sql(study, "select distinct removed_at from tombstones").equals(dates), "a date stays"
    (study.parent / "corpus" / EXTRA).unlink()
    path.write_bytes(content)
    assert studies.compute(study) == ["influence_catalogue"]
    assert {shard for shard, *_ in studies.ask_sql(study, TOMBSTONES).rows()} == {EXTRA}
    assert studies.scores(study) == before


@pytest.mark.soak
def test_a_withdrawal_outlives_the_file(study):
    """Of a document that was withdrawn, then lost its file, the tombstone says why it was withdrawn, for ever."""
    withdrawn(study, FOG)
    studies.compute(study)
    (study.parent / "corpus" / COAST).unlink()
    studies.compute(study)
    reasons = {(document, reason) for shard, document, reason in studies.ask_sql(study, TOMBSTONES).rows()}
    assert (document_id(FOG), "asked for by its author") in reasons
    assert {reason for document, reason in reasons if document != document_id(FOG)} == {"its source file vanished"}
    studies.write_jsonl(study.parent / "corpus" / COAST, studies.COAST_ROWS)
    assert studies.compute(study) == ["influence_catalogue"]
    assert studies.ask_sql(study, TOMBSTONES).rows() == [(COAST, document_id(FOG), "asked for by its author")]


@pytest.mark.slow
def test_readers_lose_it_at_once_where_nothing_can_be_computed(study):
    """The shard goes as a whole, with all that its documents had a part in, until a run completes."""
    withdrawn(study, FOG)
    assert retract(workspace(study), [document_id(FOG), document_id("nobody's")]) == [COAST]
    assert retract(workspace(study), [document_id(FOG)]) == [], "readers see it no more"
    assert documents(study) == ids(TRADES, studies.TRADES_ROWS)
    for table in ("sequences", "shards"):
        found = studies.ask_sql(study, f"select distinct shard_id from {table}")["shard_id"].to_list()
        assert found == [TRADES], table
    kept = studies.sequences_of(study, TRADES)
    for table in ("influence_scores", "method_scores", "layer_influence", "token_influence"):
        found = studies.ask_sql(study, f"select distinct sequence_id from {table}")["sequence_id"].to_list()
        assert set(found) <= kept, table
    assert tombstones_of(workspace(study), [document_id(FOG)])["shard_id"].to_list() == [COAST]
    assert set(studies.compute(study)) == studies.of_shard(COAST)
    assert documents(study) == EVERY - ids(COAST, [{"text": FOG}])
    studies.assert_no_stale_row(study)


@pytest.mark.slow
def test_readers_lose_it_whatever_is_wrong_with_the_corpus(study):
    """Also where manifests are damaged, so that nobody can say what was computed from the document."""
    tokens = studies.artifact(study, "token_sequences", shard=COAST)
    details = studies.artifact(study, "influence_details", query_set=studies.FIRST)
    withdrawn(study, FOG)
    shutil.rmtree(study.parent / "corpus")
    for artifact in (tokens, details):
        (artifact.folder / "manifest.json").write_bytes(b"}{")
    assert retract(workspace(study), [document_id(FOG)]) == [COAST]
    assert documents(study) == ids(TRADES, studies.TRADES_ROWS)
    assert studies.ask_sql(study, "select distinct shard_id from sequences")["shard_id"].to_list() == [TRADES]
    assert studies.ask_sql(study, TOMBSTONES).rows() == [(COAST, document_id(FOG), "asked for by its author")]


@pytest.mark.slow
def test_the_list_may_be_damaged_or_lost_and_the_text_stays_out(study):
    withdrawn(study, FOG)
    studies.compute(study)
    store = study.parent / "store"
    lists = [store / "withdrawn.jsonl", store / ".copies" / "withdrawn.jsonl"]
    for damaged in ([0], [1], [0, 1]):
        for number in damaged:
            lists[number].unlink()
        assert studies.compute(study) == []
        assert all(path.exists() for path in lists), "a run mends them"
        for number in damaged:
            lists[number].write_bytes(b"\0" * 200)
        if len(damaged) == 2:
            assert len(restore(workspace(study), [], "")) == 1
        assert studies.compute(study) == []
        assert documents(study) == EVERY - ids(COAST, [{"text": FOG}])
    (entry,) = workspace(study).withdrawn.entries.values()
    assert entry.reason == "asked for by its author"


@pytest.mark.slow
def test_a_withdrawn_document_can_be_used_again_on_purpose(study):
    withdrawn(study, FOG)
    studies.compute(study)
    assert reinstate(workspace(study), [document_id(FOG), document_id(GULLS)]) == [document_id(FOG)]
    assert studies.compute(study) == ["influence_catalogue"], "it was computed before"
    assert documents(study) == EVERY
    assert studies.ask_sql(study, TOMBSTONES).is_empty()
    for name in ("withdrawn.jsonl", ".copies/withdrawn.jsonl"):
        (study.parent / "store" / name).unlink()
    assert studies.compute(study) == []


@pytest.mark.slow
def test_verify_reports_the_damage_of_either_copy_and_mends_it(study):
    withdrawn(study, FOG)
    studies.compute(study)
    store = study.parent / "store"
    for name in ("withdrawn.jsonl", "tombstones.jsonl"):
        for path in (store / name, store / ".copies" / name):
            content = path.read_bytes()
            path.write_bytes(content.replace(b"author", b"Author"))
            (trouble,) = verify(workspace(study), lambda _done, _total: None)
            assert (trouble.where, trouble.remedy) == (str(path), "It was repaired from its other copy.")
            assert path.read_bytes() == content
    for name in ("withdrawn.jsonl", "tombstones.jsonl"):
        for path in (store / name, store / ".copies" / name):
            path.write_bytes(path.read_bytes()[:-4])
    (trouble,) = verify(workspace(study), lambda _done, _total: None)
    assert "influence forget --restore" in trouble.problem
    restore(workspace(study), [], "")
    troubles = verify(workspace(study), lambda _done, _total: None)
    assert len(troubles) == 2, "the tombstones"
    assert verify(workspace(study), lambda _done, _total: None) == []


@pytest.mark.slow
def test_all_that_there_is_can_be_withdrawn(study):
    """Then readers see nothing, and the generation waits for what comes."""
    withdrawn(study, *(row["text"] for row in studies.COAST_ROWS + studies.TRADES_ROWS))
    assert set(studies.compute(study)) == {
        "curvature_drift", *(f"influence_details[{name}]" for name in studies.QUERY_SETS), "influence_catalogue",
    }  # fmt: skip
    for table in ("documents", "sequences", "influence_scores", "token_influence"):
        assert studies.ask_sql(study, f"select count(*) from {table}").item() == 0, table
    found = {(shard, document) for shard, document, _ in studies.ask_sql(study, TOMBSTONES).rows()}
    assert found == EVERY
    studies.write_extra(study)
    assert set(studies.compute(study)) == studies.of_shard(EXTRA)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.soak
def test_rows_at_the_end_of_a_large_file_change_its_last_slice_alone(study, rows):
    studies.write_study(study.parent, corpus={"shard_bytes": 200})
    studies.compute(study)
    shards = studies.ask_sql(study, "select shard_id from shards order by shard_id")["shard_id"].to_list()
    slices = [shard for shard in shards if shard.startswith(COAST)]
    assert slices == [COAST, f"{COAST}@00001"]
    texts = studies.ask_sql(
        study, "select shard_id, source_row from documents where shard_id <> $1 order by all", [TRADES]
    )
    assert [row for _, row in texts.rows()] == [1, 2, 3, 4], "rows are numbered in the file"
    added = [{"text": f"The keeper of lamp {number} sleeps by day."} for number in range(rows)]
    studies.write_jsonl(study.parent / "corpus" / COAST, [*studies.COAST_ROWS, *added])
    computed = {name.partition("[")[2].rstrip("]").rpartition("|")[2] for name in studies.compute(study)}
    now = studies.ask_sql(study, "select shard_id from shards order by shard_id")["shard_id"].to_list()
    new = {shard for shard in now if shard not in shards}
    assert COAST not in computed
    assert TRADES not in computed
    assert new <= computed
    studies.assert_no_stale_row(study)
