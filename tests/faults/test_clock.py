"""Clocks that jump and times that lie: content decides what is outstanding, and nothing that is needed goes."""

import os
from functools import partial

import pytest

from influence_assets.storage.catalogue import loaded_keys
from tests.faults import comparison, working, zygote
from tests.faults.changing import FILES

HOUR = 3600
DAYS = 10 * 24 * HOUR


def set_back(path, seconds):
    """Give a file the times of another moment."""
    stat = path.stat()
    os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


@pytest.mark.slow
def test_times_that_change_alone_change_nothing(ground, corpus):
    for jump in (DAYS, -2 * DAYS, DAYS):
        for name in corpus.files:
            set_back(corpus.folder / name, jump)
        assert zygote.live(working.run, ground.study, below=ground.store).answer.computed == []


@pytest.mark.parametrize("remembers_by", ["time of the last change", "time of modification alone"])
@pytest.mark.soak
def test_content_that_changes_behind_the_times_is_seen(ground, corpus, remembers_by):
    """The same size and the time of before: what a copy that keeps times leaves, or a clock that was set back.

    The time of modification alone, as others remember files by, would overlook it.
    """
    run = partial(working.run_remembering_at_once, ground.study, by_modification_alone="alone" in remembers_by)
    assert zygote.live(run, below=ground.store).answer.computed == []
    path = corpus.folder / FILES[1]
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"lights", b"lifted"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.read_bytes() != content
    is_seen = f"documents[{FILES[1]}]" in zygote.live(run, below=ground.store).answer.computed
    assert is_seen == ("alone" not in remembers_by)


@pytest.mark.soak
def test_steps_of_which_each_is_an_hour_before_the_last(ground, corpus):
    """Computed, killed, collected and computed again while the clock runs backwards: nothing is lost or left out."""
    for number, documents in enumerate(([6], [6, 7], [6, 7, 8], [9])):
        corpus.write(FILES[2], documents)
        jump = -HOUR * (number + 1)
        kill = zygote.Kill(step=90)
        zygote.live(working.at_another_time, jump + HOUR // 2, working.run, ground.study, below=ground.store, kill=kill)
        ran = zygote.live(working.at_another_time, jump, working.run, ground.study, below=ground.store).answer
        assert not ran.failures
        wanted = set(loaded_keys(ground.store / "influence.duckdb"))
        zygote.live(working.at_another_time, 2 * jump, working.gc, ground.study, 1, below=ground.store)
        store = comparison.workspace(ground.study).store
        assert all(map(store.holds, wanted))
        assert zygote.live(working.run, ground.study, below=ground.store).answer.computed == []
    comparison.assert_equal_catalogues(ground.study, comparison.from_scratch(ground.study))
    zygote.live(working.gc, ground.study, 0, below=ground.store)
    comparison.assert_no_orphans(ground.study)
