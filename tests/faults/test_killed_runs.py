"""Kill -9 of whole runs: what stood is not computed again, and the end is that of a run left alone."""

from itertools import count

import dagster as dg
import pytest

from influence_assets.storage.catalogue import query
from tests.commanding import finished, influence_process, killed
from tests.faults import comparison, working, zygote
from tests.faults.changing import FILES


def held(study):
    """Every artifact that stands, with its folder's number on the disk, which another would not have."""
    store = comparison.workspace(study).store
    return {key: store.place(key).stat().st_ino for key in comparison.manifests(store) if store.holds(key)}


def edit(corpus):
    corpus.write(FILES[2], [6, 7])
    corpus.write(FILES[0], [0, 1, 2, 3, 8, 9])
    corpus.remove(FILES[1])


@pytest.mark.soak
def test_killed_again_and_again_a_run_computes_nothing_twice(ground, corpus):
    edit(corpus)
    before, kills = held(ground.study), 0
    for steps in count(60, 7):  # more each time, so that it ends
        ended = zygote.live(working.run, ground.study, below=ground.store, kill=zygote.Kill(step=steps))
        after = held(ground.study)
        assert {key: after.get(key) for key in before} == before
        before = after
        if not ended.killed:
            break
        kills += 1
    assert kills > 3
    assert not ended.answer.failures
    assert zygote.live(working.run, ground.study, below=ground.store).answer.computed == []
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))


@pytest.mark.soak
def test_a_run_that_is_killed_while_it_loads_leaves_the_catalogue_as_it_was(ground, corpus):
    """At its own steps, from the first that concerns its copy to the run's end; DuckDB's lie between them."""
    edit(corpus)
    asked = "select shard_id, document_id from documents order by all"
    before = query(comparison.workspace(ground.study).catalogue, asked)
    zygote.live(working.run, ground.study, below=ground.store)
    after = query(comparison.workspace(ground.study).catalogue, asked)
    assert not before.equals(after)
    seen = set()
    for step in count(1, 3):
        edit(ground.begin())
        kill = zygote.Kill(step=step, since="*/.influence.duckdb.loading")
        if not zygote.live(working.run, ground.study, below=ground.store, kill=kill).killed:
            break
        found = query(comparison.workspace(ground.study).catalogue, asked)
        seen.add("before" if found.equals(before) else "after")
        assert found.equals(before) or found.equals(after)
    assert seen == {"before", "after"}


IN_A_DRAFT = ("open", "*/token_sequences/*/.draft-*/*", 1)
BEFORE_PUBLISHING = ("os.rename", "*/.influence.duckdb.loading", 1)


@pytest.mark.slow
def test_the_command_is_killed_and_taken_up(ground, corpus):
    """The real one, with Dagster: a run's record that nobody would end is ended by the next."""
    edit(corpus)
    for step, left in ((IN_A_DRAFT, "token_sequences/*/.draft-*"), (BEFORE_PUBLISHING, ".influence.duckdb.loading")):
        killed(influence_process("run", folder=ground.folder, killed_at=step))
        assert list(ground.store.glob(left))
    ended = finished(influence_process("run", folder=ground.folder))
    assert ended.code == 0, ended.out + ended.err
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))
    zygote.live(working.gc, ground.study, 0, below=ground.store)
    comparison.assert_no_orphans(ground.study)
    with dg.DagsterInstance.from_config(str(ground.store / ".dagster")) as instance:
        ends = [run.status for run in instance.get_runs()]
    failed, succeeded = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS
    assert ends == [succeeded, failed, failed], "the newest first"
