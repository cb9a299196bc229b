"""Readers beside loads: each sees one complete state, and no error."""

import duckdb
import pytest

from influence_assets.errors import StorageError
from influence_assets.storage.catalogue import query
from influence_assets.storage.catalogue.statements import statements
from tests.faults import comparison, working, zygote
from tests.faults.changing import FILES, file_of

LOADS = 20
STATE = """
select
    (select count(*) from current_scores) as scores,
    (select count(*) from sequences) as sequences,
    (select count(*) from queries) as queries,
    (select count(*) from generations where is_current) as current,
    (select count(distinct shard_id) from documents) as read_shards,
    (select count(*) from shards) as shards,
    (select content_version from catalogue) as content
"""


EDITS = [
    edit
    for number in range(LOADS // 4)
    for edit in (
        {FILES[3]: file_of([6 + number])},
        {FILES[0]: file_of([0, 1, 2, 3, 12 + number])},
        {FILES[3]: None},
        {FILES[1]: file_of([4 + number])},
    )
]
"""A file comes, changes, goes, and another one changes."""


def views():
    """Every view, and the macros that take no question apart."""
    return [name for name, statement in statements("views").items() if "create view" in statement.sql]


@pytest.mark.soak
def test_one_that_polls_sees_only_complete_states_and_no_error(ground, corpus):
    """Ten times a second, through twenty loads with files added, changed and removed, and once after each."""
    path, seen, polls = ground.store / "influence.duckdb", [], 0
    loaded, looked = zygote.context.Semaphore(0), zygote.context.Semaphore(0)
    process = zygote.Process(working.edit_and_run, ground.study, EDITS, loaded, looked, below=ground.store)
    while process.is_alive:
        is_loaded = loaded.acquire(timeout=0.1)
        state = query(path, STATE).row(0, named=True)
        assert state["scores"] == state["sequences"] * state["queries"] > 0
        assert state["current"] == 1
        assert state["read_shards"] == state["shards"]
        if state["content"] not in seen:
            seen.append(state["content"])
        view = views()[polls % len(views())]
        query(path, f"from {view} limit 5")
        polls += 1
        if is_loaded:
            looked.release()
    loads = [ran for ran in process.ended().answer if "influence_catalogue" in ran.computed]
    assert len(loads) == LOADS
    assert not any(ran.failures for ran in loads)
    assert len(seen) >= LOADS


@pytest.mark.slow
def test_where_the_loader_changes_the_file_itself_a_reader_has_trouble(ground, corpus):
    """What the copy protects from: the same question, while a loader works in place."""
    corpus.write(FILES[2], [6])
    loading, looked = zygote.context.Semaphore(0), zygote.context.Semaphore(0)
    process = zygote.Process(working.run_in_place, ground.study, loading, looked, below=ground.store)
    assert loading.acquire(timeout=zygote.LONGEST_SECONDS)
    with pytest.raises(StorageError):
        query(ground.store / "influence.duckdb", STATE)
    looked.release()
    assert not process.ended().answer.failures


@pytest.mark.slow
def test_one_that_stays_keeps_its_state_and_keeps_nobody_waiting(ground, corpus):
    path = ground.store / "influence.duckdb"
    asked = "select shard_id, document_id from documents order by all"
    before = query(path, asked)
    with duckdb.connect(str(path), read_only=True) as held:
        for number in range(3):
            corpus.write(FILES[2], [6 + number])
            ran = zygote.live(working.run, ground.study, below=ground.store).answer
            assert ran.computed[-1] == "influence_catalogue"
            assert held.execute(asked).fetchall() == before.rows()
            assert query(path, asked).height == before.height + 1
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))
