"""The store's contract: immutable, all or nothing, and never silent about damage."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence_assets.durable.files import files_below
from influence_assets.durable.names import safe_name
from influence_assets.durable.temporary import temporary_name
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts import MARKER, ArtifactStore, drafts
from influence_assets.storage.artifacts.manifest import ArtifactKey

KEY = ArtifactKey("token_sequences", "manual/topics.jsonl.gz", "v1")
TOKENS = np.arange(12, dtype=np.int32).reshape(4, 3)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore.open_or_create(tmp_path / "store", "topics")


def write(store, key=KEY, tokens=TOKENS):
    with store.write(
        key, inputs=[ArtifactKey("documents", key.partition, "d1")], code_version="3", run_id="r1"
    ) as draft:
        draft.array("tokens", tokens)
        draft.table("sequences", pl.DataFrame({"sequence_id": [1, 2, 3]}))
        (draft.folder("model") / "config.json").write_text("{}")
        draft.summarise(loss=np.float32(0.5), tokens=np.int64(12), shape=tokens.shape)


def every_file(folder):
    return {path.relative_to(folder).as_posix() for path in files_below(folder) if path.name != ".lock"}


def in_another_process(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


class TestContract:
    def test_reads_back_what_was_written(self, store):
        write(store)
        artifact = store.open(KEY)
        assert artifact.key == KEY
        np.testing.assert_array_equal(artifact.array("tokens"), TOKENS)
        assert artifact.table("sequences").collect()["sequence_id"].to_list() == [1, 2, 3]
        assert artifact.path("model/config.json").read_text() == "{}"
        assert artifact.path("model").is_dir()
        manifest = artifact.manifest
        assert manifest.rows == {"sequences": 3}
        assert manifest.summary == {"loss": 0.5, "tokens": 12, "shape": [4, 3]}
        assert manifest.inputs == (ArtifactKey("documents", "manual/topics.jsonl.gz", "d1"),)
        others = [path for path in files_below(artifact.folder) if path.name != "manifest.json"]
        assert manifest.bytes == sum(path.stat().st_size for path in others)
        assert artifact.verify() == []

    def test_time_and_processor_time_are_those_of_the_draft(self, store, monkeypatch):
        class Jumping(datetime):
            """A clock that is set back a day whenever it is read."""

            days = 0

            @classmethod
            def now(cls, tz=None):
                cls.days += 1
                return datetime.now(tz) - timedelta(days=cls.days)

        monkeypatch.setattr(drafts, "datetime", Jumping)
        begun, spent = time.monotonic(), time.process_time()
        with store.write(KEY, inputs=[], code_version="1"):
            inside = time.process_time()
            while time.process_time() - inside < 0.05:
                pass
        manifest = store.open(KEY).manifest
        assert 0.05 <= manifest.cpu_seconds <= time.process_time() - spent
        assert 0.05 <= manifest.seconds <= time.monotonic() - begun

    def test_the_layout_is_readable(self, store):
        write(store)
        folder = store.root / "token_sequences" / "manual%2Ftopics.jsonl.gz" / "v1"
        assert (folder / "arrays" / "tokens" / "zarr.json").is_file()
        assert (folder / "sequences.parquet").is_file()
        without = ArtifactKey("curvature", None, "v1")
        write(store, without)
        assert (store.root / "curvature" / "all" / "v1" / "manifest.json").is_file()

    def test_what_is_absent_is_named_with_a_remedy(self, store):
        assert not store.holds(KEY)
        with pytest.raises(StorageError, match="influence run"):
            store.open(KEY)
        write(store)
        artifact = store.open(KEY)
        for read in (artifact.array, artifact.table, artifact.path, artifact.mapped):
            with pytest.raises(StorageError, match="'nothing'"):
                read("nothing")

    def test_the_first_of_two_of_the_same_version_stays(self, store):
        write(store)
        before = store.open(KEY).manifest
        write(store, tokens=TOKENS + 1)
        assert store.open(KEY).manifest == before
        np.testing.assert_array_equal(store.open(KEY).array("tokens"), TOKENS)
        assert not list(store.root.rglob(".draft-*"))

    @staticmethod
    def write_half(store, key):
        with store.write(key, inputs=[], code_version="1") as draft:
            draft.array("tokens", TOKENS)
            draft.growing_array("stream", (2,), "float32").append(np.zeros((3, 2), "float32"))
            raise ZeroDivisionError

    def test_an_exception_leaves_nothing(self, store):
        write(store)
        before = every_file(store.root)
        with pytest.raises(ZeroDivisionError):
            self.write_half(store, ArtifactKey("token_sequences", "b", "v1"))
        assert every_file(store.root) == before
        assert not list(store.root.rglob(".draft-*"))

    def test_nothing_is_visible_before_the_end(self, store):
        with store.write(KEY, inputs=[], code_version="1") as draft:
            draft.array("tokens", TOKENS)
            assert not store.holds(KEY)
            assert list(store.manifests()) == []
        assert store.holds(KEY)

    def test_lists_manifests(self, store):
        other, whole = ArtifactKey("documents", "ä/É|x", "v2"), ArtifactKey("documents", None, "v2")
        for key in (KEY, other, whole):
            write(store, key)
        assert {manifest.key for manifest in store.manifests()} == {KEY, other, whole}
        assert {manifest.key for manifest in store.manifests("documents")} == {other, whole}
        assert [manifest.key for manifest in store.manifests("documents", "ä/É|x")] == [other]
        assert [manifest.key for manifest in store.manifests("documents", None)] == [whole]
        assert [manifest.key for manifest in store.manifests(partition="ä/É|x")] == [other]
        assert list(store.manifests("nothing")) == list(store.manifests("documents", "nothing")) == []

    def test_to_hold_something_is_told_without_reading(self, store):
        write(store)
        (store.place(KEY) / "manifest.json").write_text("not read")
        assert store.holds(KEY)
        (store.place(KEY) / "manifest.json").unlink()
        assert not store.holds(KEY)

    def test_a_process_killed_while_writing_leaves_nothing_to_be_seen(self, store):
        writer = in_another_process(
            """
            import sys, time
            from pathlib import Path
            import numpy as np
            from influence_assets.storage.artifacts import ArtifactStore
            from influence_assets.storage.artifacts.manifest import ArtifactKey
            store = ArtifactStore.open_or_create(Path(sys.argv[1]), "topics")
            with store.write(ArtifactKey(*sys.argv[2:]), inputs=[], code_version="1") as draft:
                draft.array("tokens", np.zeros((4, 3), np.int32))
                print("half", flush=True)
                time.sleep(600)
            """,
            store.root,
            *("token_sequences", "manual/topics.jsonl.gz", "v1"),
        )
        assert writer.stdout.readline() == "half\n"
        [draft] = store.root.rglob(".draft-*")
        assert store.remove_abandoned_drafts() == []  # its process is still alive
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert not store.holds(KEY)
        assert list(store.manifests()) == []
        write(store)
        np.testing.assert_array_equal(store.open(KEY).array("tokens"), TOKENS)
        assert store.remove_abandoned_drafts() == [draft]
        assert not draft.exists()
        assert store.holds(KEY)

    def test_the_draft_of_another_host_is_left_alone(self, store):
        folder = store.place(KEY).parent / temporary_name("999999999-elsewhere")
        folder.mkdir(parents=True)
        assert store.remove_abandoned_drafts() == []
        assert folder.is_dir()

    def test_two_processes_may_write_the_same_at_once(self, store):
        code = """
            import sys
            from pathlib import Path
            import numpy as np
            from influence_assets.storage.artifacts import ArtifactStore
            from influence_assets.storage.artifacts.manifest import ArtifactKey
            store = ArtifactStore.open_or_create(Path(sys.argv[1]), "topics")
            with store.write(ArtifactKey("a", "p", "v"), inputs=[], code_version="1") as draft:
                draft.array("tokens", np.arange(7))
                print("ready", flush=True)
                sys.stdin.readline()
        """
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), str(store.root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("\n")
            writer.stdin.flush()
        assert [writer.communicate()[0] is not None and writer.returncode for writer in writers] == [0, 0]
        key = ArtifactKey("a", "p", "v")
        np.testing.assert_array_equal(store.open(key).array("tokens"), np.arange(7))
        assert store.open(key).verify() == []
        assert [path.name for path in store.place(key).parent.iterdir() if not path.name.startswith(".")] == ["v"]

    def test_a_file_in_the_place_of_a_folder_is_named_and_left(self, store):
        store.place(KEY).parent.mkdir(parents=True)
        store.place(KEY).write_text("stray")
        with pytest.raises(StorageError, match="v1: lies where an artifact belongs"):
            write(store)
        assert store.place(KEY).read_text() == "stray"


class TestRoot:
    def test_a_store_is_opened_again(self, store):
        write(store)
        assert ArtifactStore.open_or_create(store.root, "topics").holds(KEY)
        assert [path.name for path in store.root.iterdir() if path.name.startswith(f".{MARKER}")] == []

    def test_another_studys_store_is_refused_and_left_alone(self, store):
        before = (store.root / MARKER).read_text()
        with pytest.raises(InputError, match=r"storage\.root.*'topics'.*Choose another storage\.root"):
            ArtifactStore.open_or_create(store.root, "novels")
        assert (store.root / MARKER).read_text() == before

    @pytest.mark.parametrize("below", ["", "deeper/still"])
    def test_a_root_that_cannot_be_a_folder_is_refused(self, tmp_path, below):
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(InputError, match=r"storage\.root.*cannot be written"):
            ArtifactStore.open_or_create(tmp_path / "file" / below, "topics")

    def test_a_root_that_refuses_files_is_refused(self, tmp_path, monkeypatch):
        def refuse(path, *_arguments, **_keywords):
            raise OSError(30, "Read-only file system", str(path))

        monkeypatch.setattr(Path, "write_text", refuse)
        with pytest.raises(InputError, match="Read-only file system"):
            ArtifactStore.open_or_create(tmp_path, "topics")

    @pytest.mark.parametrize("marker", ["{", "[]", "{}", json.dumps({"format_version": 99, "study": "topics"})])
    def test_a_damaged_or_newer_marker_is_refused(self, tmp_path, marker):
        (tmp_path / MARKER).write_text(marker)
        with pytest.raises(StorageError, match=r"Choose another storage\.root"):
            ArtifactStore.open_or_create(tmp_path, "topics")

    def test_a_marker_with_any_other_byte_is_written_again_where_an_artifact_shows_whose_it_is(self, store):
        write(store)
        whole = (store.root / MARKER).read_bytes()
        assert store.mended_marker is None
        for place in range(len(whole)):
            for damaged in (
                whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
                whole[:place] + b"\xff" + whole[place + 1 :],
                whole[:place],
            ):
                (store.root / MARKER).write_bytes(damaged)
                opened = ArtifactStore.open_or_create(store.root, "topics")
                assert opened.mended_marker, damaged
                assert (store.root / MARKER).read_bytes() == whole
        assert ArtifactStore.open_or_create(store.root, "topics").mended_marker is None

    def test_a_marker_that_is_damaged_beside_artifacts_of_another_study_is_left_alone(self, store):
        write(store)
        (store.root / MARKER).write_bytes(b"{")
        with pytest.raises(StorageError, match=r"no artifact of the study 'novels'.*restore the file"):
            ArtifactStore.open_or_create(store.root, "novels")
        assert (store.root / MARKER).read_bytes() == b"{"

    def test_a_marker_from_before_it_had_a_checksum_is_as_good_as_any(self, store):
        write(store)
        old = json.dumps({"format_version": 4, "study": "topics"})
        (store.root / MARKER).write_text(old)
        assert ArtifactStore.open_or_create(store.root, "topics").mended_marker is None
        assert (store.root / MARKER).read_text() == old
        with pytest.raises(InputError, match="is the store of the study 'topics', not of 'novels'"):
            ArtifactStore.open_or_create(store.root, "novels")


class TestKeys:
    @given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
    def test_different_keys_have_different_safe_folders(self, keys):
        first, second = map(safe_name, keys)
        assert first.lower() != second.lower()  # also on file systems that ignore case

    @given(st.text(min_size=1))
    def test_every_key_is_one_plain_visible_segment(self, key):
        name = safe_name(key)
        assert name.isascii()
        assert len(name) <= 100
        assert not set(name) & set('/\\:*?"<>| \0')
        assert not name.startswith(".")
        assert not name.endswith(".")
        assert name != "all"

    @pytest.mark.parametrize(
        "key", ["all", "ALL", ".", "..", ".draft-x", "a/../b", "aux", "con.txt", "É" * 150, "a|b", "x" * 101]
    )
    def test_difficult_keys_come_back(self, store, key):
        difficult = ArtifactKey("documents", key, "v1")
        write(store, difficult)
        write(store, ArtifactKey("documents", None, "v1"))
        assert store.open(difficult).key == difficult
        assert {manifest.key.partition for manifest in store.manifests()} == {key, None}

    def test_the_id_is_the_documented_hash(self):
        # printf 'a\0p\0v' | sha256sum
        assert ArtifactKey("a", "p", "v").materialization_id == 0x9909F6BD9B0A8F38 >> 1
        assert 0 < KEY.materialization_id < 2**63

    @pytest.mark.parametrize("parts", [("", "p", "v"), ("a", "", "v"), ("a", "p", "")])
    def test_an_empty_part_is_refused(self, parts):
        with pytest.raises(ValueError, match="empty"):
            ArtifactKey(*parts)
