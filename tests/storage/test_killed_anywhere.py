"""Kill -9 before every single step of writing, publishing, marking and removing, in real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.killed_everywhere import DEEDS
from tests.storage.stored import KEY, read_everything, store_in, write
from tests.tiers import slow_but

BEFORE = {
    "nothing": lambda _store: None,
    "a standing artifact": write,
    "a damaged artifact": lambda store: (write(store), DEEDS["mark"](store)),
    "written as runs do": DEEDS["write as runs do"],
    "a record": lambda store: (write(store), DEEDS["reduce"](store)),
}


def killed(tmp_path, before, deed):
    """Stores in which the deed was killed one step later each, the last one not at all."""
    template, copies = tmp_path / "template", tmp_path / "copies"
    BEFORE[before](store_in(template))
    copies.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.storage.killed_everywhere", str(template), str(copies), deed],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    stores = [store_in(copies / f"{step:03}") for step in range(int(done.stdout))]
    assert len(stores) >= 2
    return stores


def drafts(store):
    return list(store.root.rglob(".draft-*"))


def is_whole_or_not_held(store):
    """Nothing that looks like an artifact is less than one."""
    if store.holds(KEY):
        read_everything(store)
        assert list(store.verify()) == []
    return store.holds(KEY)


@pytest.mark.parametrize(
    "before", slow_but(of=[name for name in BEFORE if name != "written as runs do"], slow=("a standing artifact",))
)
def test_a_writer_killed_anywhere_is_made_good_by_the_next(tmp_path, before):
    stores = killed(tmp_path, before, "write")
    held = [is_whole_or_not_held(store) for store in stores]
    assert held[-1]
    assert held == sorted(held)  # published in one step, and from then on there
    assert all(held) == (before == "a standing artifact")
    assert any(drafts(store) for store in stores)
    for store in stores:
        if before == "a record":
            assert store.manifest(KEY) is not None
        store.remove_abandoned_drafts()
        assert drafts(store) == []
        write(store)
        read_everything(store)
        assert list(store.verify()) == []
        assert [m.key for m in store.manifests(with_records=True, with_damaged=True)] == [KEY]


@pytest.mark.parametrize("before", ["a standing artifact", "a damaged artifact"])
def test_marking_killed_anywhere_marks_or_does_not(tmp_path, before):
    stores = killed(tmp_path, before, "mark")
    held = [is_whole_or_not_held(store) for store in stores]
    assert not held[-1]
    assert any(held) == (before == "a standing artifact")
    for store in stores:
        store.remove_abandoned_drafts()
        assert drafts(store) == []
        DEEDS["mark"](store)
        write(store)
        read_everything(store)


@pytest.mark.parametrize(
    "before", slow_but(of=["a standing artifact", "a damaged artifact", "a record"], slow=("a standing artifact",))
)
def test_a_removal_killed_anywhere_leaves_all_or_nothing(tmp_path, before):
    stores = killed(tmp_path, before, "remove")
    held = [is_whole_or_not_held(store) for store in stores]
    assert not held[-1]
    assert any(held) == (before == "a standing artifact")
    for store in stores:
        store.remove_abandoned_drafts()
        assert drafts(store) == []
        with store.exclusive_lock():
            store.remove(KEY)
            store.remove_empty_folders()
        assert store.manifest(KEY) is None
        assert not (store.root / KEY.asset).exists()


@pytest.mark.parametrize(("before", "deed"), [("nothing", "write as runs do"), ("written as runs do", "clear")])
def test_whoever_is_killed_leaves_no_folder_for_ever(tmp_path, before, deed):
    for store in killed(tmp_path, before, deed):
        with store.exclusive_lock():
            store.remove_abandoned_drafts()
        DEEDS["clear"](store)
        assert [path.name for path in store.root.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "before", slow_but(of=["a standing artifact", "a damaged artifact"], slow=("a standing artifact",))
)
def test_a_reduction_killed_anywhere_never_loses_the_lineage(tmp_path, before):
    stores = killed(tmp_path, before, "reduce")
    held = [is_whole_or_not_held(store) for store in stores]
    assert not held[-1]
    assert any(held) == (before == "a standing artifact")
    for store in stores:
        assert store.manifest(KEY) is not None
        store.remove_abandoned_drafts()
        assert drafts(store) == []
        with store.exclusive_lock():
            store.reduce_to_record(KEY)
        assert [manifest.key for manifest in store.manifests(with_records=True)] == [KEY]
        assert not store.place(KEY).exists()
