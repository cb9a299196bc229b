"""What every backend of a store does. A backend's test class inherits `BackendContract` and says how it is opened."""

import os
import signal
import threading
from collections.abc import Callable

import pytest

from influence_assets.storage.backend import Backend, Entry

FOLDER = "documents/manual%2Ftopics.jsonl.gz~0123456789abcdef/v1"
CONTENT = {
    "manifest.json": b"{}",
    "documents.parquet": bytes(range(256)) * 10_000,
    "empty": b"",
    "arrays/transformer.h.0.mlp/zarr.json": b"{}",
    "arrays/transformer.h.0.mlp/c/0/0": b"\0\1",
    "model/config.json": b"{}",
}


class BackendContract:
    """The contract, as tests."""

    @pytest.fixture
    def opened(self, tmp_path) -> Callable[[], Backend]:
        """Open the same medium, as another process would."""
        raise NotImplementedError

    @pytest.fixture
    def backend(self, opened):
        backend = opened()
        backend.prepare()
        return backend

    @staticmethod
    def publish(backend, folder=FOLDER, content=CONTENT):
        with backend.draft(folder) as draft:
            for name, octets in content.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(octets)
            backend.publish(draft, folder)

    @staticmethod
    def assert_holds(backend, folder=FOLDER, content=CONTENT):
        assert backend.is_folder(folder)
        assert backend.files_below(folder) == sorted(content)
        path = backend.fetch(folder)
        assert path == backend.local_root / folder
        for name, octets in content.items():
            assert backend.size(f"{folder}/{name}") == len(octets)
            assert backend.read(f"{folder}/{name}") == octets
            assert (path / name).read_bytes() == octets

    def test_before_anything_is_written_there_is_nothing(self, opened):
        backend = opened()
        assert backend.entries("") == backend.entries("documents") == backend.files_below("documents") == []
        assert backend.size("documents") is backend.size("a/b/c/manifest.json") is None
        assert not backend.is_folder("documents")
        with pytest.raises(FileNotFoundError):
            backend.read("a/b/c/manifest.json")

    def test_preparing_twice_is_preparing_once(self, backend, opened):
        backend.write("marker.json", b"1")
        opened().prepare()
        assert backend.read("marker.json") == b"1"
        assert backend.local_root.is_dir()
        assert opened().location == backend.location

    def test_a_small_file_is_written_and_replaced_for_all_to_see(self, backend, opened):
        other = opened()
        for content in (b"first", b"", b"another, longer one"):
            backend.write("documents/all/.record-v1.json", content)
            assert other.read("documents/all/.record-v1.json") == content
            assert other.size("documents/all/.record-v1.json") == len(content)
            path = other.fetch("documents/all/.record-v1.json", again=True)
            assert (path, path.read_bytes()) == (other.local_root / "documents/all/.record-v1.json", content)
        assert [entry.name for entry in backend.entries("documents/all")] == [".record-v1.json"]

    def test_what_is_in_a_folder_is_listed_by_name(self, backend):
        for name in ("b/file", "a/all/file", "top", "b/folder/file", "b/.hidden", "b/a/x/y"):
            backend.write(name, b"x")
        assert [entry for entry in backend.entries("") if not entry.name.startswith(".")] == [
            Entry("a", is_folder=True),
            Entry("b", is_folder=True),
            Entry("top", is_folder=False),
        ]
        assert backend.entries("b") == [
            Entry(".hidden", is_folder=False),
            Entry("a", is_folder=True),
            Entry("file", is_folder=False),
            Entry("folder", is_folder=True),
        ]
        assert backend.entries("top") == backend.entries("nothing") == []
        assert backend.files_below("b") == [".hidden", "a/x/y", "file", "folder/file"]
        assert backend.is_folder("b/a/x")
        assert not backend.is_folder("top")

    def test_a_draft_is_published_whole(self, backend, opened):
        with backend.draft(FOLDER) as draft:
            assert list(draft.iterdir()) == []
            (draft / "manifest.json").write_bytes(b"{}")
            assert opened().size(f"{FOLDER}/manifest.json") is None
            backend.publish(draft, FOLDER)
        assert not draft.exists()
        assert opened().files_below(FOLDER) == ["manifest.json"]
        self.publish(backend, "curvature/all/v1")
        self.assert_holds(opened(), "curvature/all/v1")

    def test_what_is_published_is_not_replaced(self, backend):
        self.publish(backend)
        with pytest.raises(FileExistsError):
            self.publish(backend, content={"manifest.json": b"another"})
        self.assert_holds(backend)

    def test_a_draft_that_fails_leaves_nothing(self, backend):
        def fail():
            with backend.draft(FOLDER) as draft:
                (draft / "manifest.json").write_bytes(b"{}")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert not backend.is_folder(FOLDER)
        assert backend.remove_abandoned(including_live_elsewhere=True) == []

    def test_what_is_removed_is_gone_and_its_neighbours_are_not(self, backend, opened):
        for folder in (FOLDER, f"{FOLDER}0", "documents/other/v1"):
            self.publish(backend, folder)
            opened().fetch(folder)
        backend.write("documents/other/.record-v1.json", b"12345")
        assert backend.remove(FOLDER) == sum(map(len, CONTENT.values()))
        assert backend.remove("documents/other/.record-v1.json") == 5
        assert backend.remove(FOLDER) == backend.remove("documents/other/.record-v1.json") == 0
        other = opened()
        assert not other.is_folder(FOLDER)
        assert other.size(f"{FOLDER}/manifest.json") is None
        assert not other.fetch(f"{FOLDER}/manifest.json").exists()
        self.assert_holds(other, f"{FOLDER}0")
        self.assert_holds(other, "documents/other/v1")
        self.publish(backend, content={"manifest.json": b"new"})
        self.assert_holds(other, content={"manifest.json": b"new"})

    def test_some_files_of_a_folder_are_removed(self, backend):
        self.publish(backend)
        gone = ["manifest.json", "arrays/transformer.h.0.mlp/zarr.json", "arrays/transformer.h.0.mlp/c/0/0", "nothing"]
        assert backend.remove_files(FOLDER, gone) == sum(len(CONTENT.get(name, b"")) for name in gone)
        self.assert_holds(backend, content={name: CONTENT[name] for name in CONTENT if name not in gone})
        assert not backend.is_folder(f"{FOLDER}/arrays")
        backend.remove_files(FOLDER, list(CONTENT))
        assert not backend.is_folder(FOLDER)

    def test_what_is_fetched_again_is_what_the_medium_holds_now(self, backend, opened):
        backend.write("lists/a.jsonl", b"old")
        assert backend.fetch("lists/a.jsonl").read_bytes() == b"old"
        opened().write("lists/a.jsonl", b"new")
        assert backend.fetch("lists/a.jsonl", again=True).read_bytes() == b"new"
        opened().remove("lists/a.jsonl")
        assert not backend.fetch("lists/a.jsonl", again=True).exists()

    def test_a_lock_excludes_threads(self, backend, opened):
        inside = []

        def work():
            with opened().locked("documents/all/.claim"):
                inside.append(1)
                assert len(inside) == 1
                threading.Event().wait(0.02)
                inside.clear()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert inside == []
        with backend.locked("documents/all/.claim", patience_seconds=0):
            pass

    def test_shared_holders_go_together_and_keep_exclusive_ones_out(self, backend, opened):
        with backend.locked(".in_use", shared=True), opened().locked(".in_use", shared=True, patience_seconds=0):
            with pytest.raises(TimeoutError), opened().locked(".in_use", patience_seconds=0):
                pass
            with opened().locked(".other", patience_seconds=0):
                pass
        with (
            backend.locked(".in_use", patience_seconds=0),
            pytest.raises(TimeoutError),
            opened().locked(".in_use", shared=True, patience_seconds=0),
        ):
            pass

    def test_a_lock_and_a_draft_outlive_no_killed_process(self, backend, opened):
        read, written = os.pipe()
        child = os.fork()
        if not child:
            mine = opened()
            with mine.locked(".in_use"), mine.draft(FOLDER) as draft:
                (draft / "half").write_bytes(b"half")
                os.write(written, b".")
                signal.pause()
        os.read(read, 1)
        try:
            with pytest.raises(TimeoutError), backend.locked(".in_use", patience_seconds=0):
                pass
            assert backend.remove_abandoned(including_live_elsewhere=False) == []
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        with backend.locked(".in_use", patience_seconds=0):
            assert len(backend.remove_abandoned(including_live_elsewhere=False)) == 1
            assert backend.remove_abandoned(including_live_elsewhere=True) == []
        assert not backend.is_folder(FOLDER)
        self.publish(backend)

    def test_with_nobody_at_work_everybodys_drafts_are_removed(self, backend, opened):
        with backend.draft(FOLDER) as draft:
            (draft / "half").write_bytes(b"half")
            assert len(opened().remove_abandoned(including_live_elsewhere=True)) == 1
            assert not draft.exists()

    def test_locks_leave_no_folder_behind(self, backend):
        folder = FOLDER.rpartition("/")[0]
        with backend.locked(f"{folder}/.claim"), backend.locked(f"{folder}/.lock"):
            self.publish(backend)
        backend.remove_empty_folders()
        self.assert_holds(backend)
        backend.remove(FOLDER)
        backend.remove_empty_folders()
        assert not backend.is_folder("documents")
        with backend.locked(f"{folder}/.claim"):
            self.publish(backend)
        self.assert_holds(backend)
