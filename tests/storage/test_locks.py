"""Who may do what at the same time, between real processes that may be killed."""

import fcntl
import os
import threading

import pytest

from influence_assets.durable.locks import is_lock, locked
from influence_assets.durable.temporary import is_temporary_name, remove_abandoned_beside
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts import locks, names
from influence_assets.storage.artifacts.manifest import ArtifactKey
from tests.storage.stored import KEY, another_process, hear, kill, read_everything, store_in, tell, write

USES = """
    with store.shared_lock():
        say("at work")
        wait()
    say("done")
    wait()
"""
CLAIMS = """
    say("asks")
    with store.partition_lock(KEY):
        say("claimed")
        wait()
    say("done")
    wait()
"""


@pytest.fixture
def store(tmp_path):
    return store_in(tmp_path / "store")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.2)


def is_locked(path):
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class TestUse:
    def test_many_use_it_together(self, store):
        with another_process(USES, store.root) as other, store.shared_lock(), store.shared_lock():
            hear(other, "at work")
            write(store)
            read_everything(store)

    def test_threads_use_it_together(self, store):
        both = threading.Barrier(2, timeout=900)

        def use():
            with store.shared_lock():
                both.wait()

        thread = threading.Thread(target=use)
        thread.start()
        with store.shared_lock():
            both.wait()
        thread.join()

    def test_the_end_of_an_inner_use_is_not_the_end_of_the_outer(self, store):
        with store.shared_lock():
            with store.shared_lock():
                pass
            assert is_locked(store.root / names.STORE_LOCK)
        assert not is_locked(store.root / names.STORE_LOCK)

    @pytest.mark.usefixtures("impatient")
    @pytest.mark.parametrize("end", ["killed", "done"])
    def test_nobody_is_alone_while_another_process_is_at_work(self, store, end):
        with another_process(USES, store.root) as other:
            hear(other, "at work")
            with (
                pytest.raises(StorageError, match=r"somebody is at work.*Wait until it is done"),
                store.exclusive_lock(),
            ):
                pass
            if end == "killed":
                kill(other)
            else:
                tell(other)
                hear(other, "done")
            with store.exclusive_lock():
                pass

    @pytest.mark.usefixtures("impatient")
    def test_writing_is_use(self, store):
        code = """
            with store.write(KEY, inputs=[], code_version="1"):
                say("writing")
                wait()
        """
        with another_process(code, store.root) as other:
            hear(other, "writing")
            with pytest.raises(StorageError, match="somebody is at work"), store.exclusive_lock():
                pass

    def test_a_short_use_is_waited_for(self, store, monkeypatch):
        monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 900)
        with another_process(USES, store.root) as other:
            hear(other, "at work")
            threading.Timer(0.3, tell, [other]).start()
            with store.exclusive_lock():
                hear(other, "done")

    def test_who_is_alone_may_use_it_and_others_wait(self, store):
        done = []

        def use():
            with store.shared_lock():
                done.append("used")

        thread = threading.Thread(target=use)
        with store.exclusive_lock():
            thread.start()
            write(store)
            with store.shared_lock():
                read_everything(store)
            thread.join(0.3)  # time enough to go in, if it could
            done.append("removed")
        thread.join()
        assert done == ["removed", "used"]
        with store.exclusive_lock():
            pass

    def test_being_alone_twice_is_a_mistake(self, store):
        with store.exclusive_lock(), pytest.raises(RuntimeError, match="already"), store.exclusive_lock():
            pass

    def test_a_forked_child_that_lives_on_does_not_hold_what_its_parent_let_go(self, store):
        read, written = os.pipe()
        with store.shared_lock():
            child = os.fork()
            if not child:
                os.close(written)
                os.read(read, 1)  # until the parent closes its end
                os._exit(0)
        os.close(read)
        try:
            assert not is_locked(store.root / names.STORE_LOCK)
        finally:
            os.close(written)
            os.waitpid(child, 0)


class TestClaim:
    @pytest.mark.parametrize("end", ["killed", "done"])
    def test_one_at_a_time_computes_a_partition(self, store, end):
        with another_process(CLAIMS, store.root) as first:
            hear(first, "asks")
            hear(first, "claimed")
            claim = store.place(KEY).parent / names.PARTITION_LOCK
            assert is_locked(claim)
            with another_process(CLAIMS, store.root) as second:
                hear(second, "asks")
                if end == "killed":
                    kill(first)
                else:
                    tell(first)
                    hear(first, "done")
                hear(second, "claimed")
                assert is_locked(claim)
                tell(second)
                hear(second, "done")
                assert not is_locked(claim)

    def test_threads_exclude_each_other(self, store):
        inside = []

        def compute():
            with store.partition_lock(KEY):
                inside.append(1)
                assert len(inside) == 1
                write(store)
                inside.clear()

        threads = [threading.Thread(target=compute) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert inside == []

    def test_other_partitions_are_free_and_what_is_claimed_can_be_written(self, store):
        with another_process(CLAIMS, store.root) as other:
            hear(other, "asks")
            hear(other, "claimed")
            free = ArtifactKey(KEY.asset, "another", "v1")
            with store.partition_lock(free):
                write(store, free)
            write(store)  # a claim is not what publishing waits for

    @pytest.mark.usefixtures("impatient")
    def test_nobody_is_alone_while_a_partition_is_claimed(self, store):
        with another_process(CLAIMS, store.root) as other:
            hear(other, "asks")
            hear(other, "claimed")
            with pytest.raises(StorageError, match="somebody is at work"), store.exclusive_lock():
                pass

    def test_a_lock_file_that_was_removed_meanwhile_locks_nothing(self, store):
        claim = store.place(KEY).parent / names.PARTITION_LOCK
        with another_process(CLAIMS, store.root) as other:
            with locked(claim):
                hear(other, "asks")
                other_waits(claim)
                claim.unlink()
            hear(other, "claimed")
            assert is_locked(claim)


def other_waits(path):
    """Until somebody waits for a lock on the file, as the kernel tells."""
    inode = f":{path.stat().st_ino} "
    while not any("->" in line and inode in line for line in open("/proc/locks", encoding="ascii")):  # noqa: PTH123, SIM115
        threading.Event().wait(0.01)


def test_a_lock_that_cannot_be_made_says_so(store, monkeypatch):
    def refuse(*_arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"a lock cannot be written \(Read-only file system\)"), store.shared_lock():
        pass


@pytest.mark.parametrize("call", ["open", "write", "link", "unlink"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_dies_while_it_makes_a_lock_leaves_nothing_unknown(tmp_path, call, when):
    """Whatever is there is a lock or a temporary file, so that it goes when nobody needs it; and others can lock."""
    path = tmp_path / "partition" / ".claim"
    path.parent.mkdir()
    original = getattr(os, call)

    def dying(*arguments, **options):
        if when == "after":
            original(*arguments, **options)
        os._exit(9)

    child = os.fork()
    if not child:
        setattr(os, call, dying)
        try:
            with locked(path):
                pass
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert all(is_lock(entry) or is_temporary_name(entry.name) for entry in path.parent.iterdir())
    with locked(path):
        assert is_lock(path)
    remove_abandoned_beside(path)
    assert [entry.name for entry in path.parent.iterdir()] == [".claim"]


def test_a_lock_is_made_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with locked(tmp_path / ".claim"):
        assert is_lock(tmp_path / ".claim")
        assert is_locked(tmp_path / ".claim")
    assert [entry.name for entry in tmp_path.iterdir()] == [".claim"]
