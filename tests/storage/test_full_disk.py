"""A disk that is full, really: a small tmpfs where one can be mounted, and everywhere a limit on the size of files."""

import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from influence_assets.durable.files import files_below
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from tests.storage.stored import KEY, read_everything, record_beside, store_in, write

LARGE = np.random.default_rng(0).random(2**19)  # 4 MiB that cannot be compressed


def table_from(draft):
    frames = (pl.DataFrame({"a": LARGE}) for _ in range(3))
    draft.table_from("large", frames, pl.Schema({"a": pl.Float64}))


FILLED_BY = {
    "array": lambda draft: draft.array("large", LARGE),
    "growing array": lambda draft: draft.growing_array("large", (), "float64").append(LARGE),
    "mappable array": lambda draft: draft.mappable_array("large", LARGE.shape, "float64").append(LARGE),
    "table": lambda draft: draft.table("large", pl.DataFrame({"a": LARGE})),
    "table of frames": table_from,
    "file": lambda draft: (draft.folder("model") / "weights").write_bytes(LARGE.tobytes()),
    "file of safetensors": lambda draft: save_file({"a": LARGE}, draft.folder("model") / "weights"),
}


def fill(store, key, name):
    with store.write(key, inputs=[], code_version="1") as draft:
        draft.array("small", np.arange(3))
        FILLED_BY[name](draft)


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in files_below(folder) if not path.name.startswith(".")}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB; unmounted in the end."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def ballast(small_disk):
    """Makes the disk full to the last byte, and free again."""
    path = small_disk / "ballast"

    def load_on():
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def load():
        with pytest.raises(OSError, match="No space left"):
            load_on()

    return load, path.unlink


@pytest.mark.parametrize("name", FILLED_BY)
def test_a_full_disk_is_told_and_nothing_half_written_stays(small_disk, name):
    store = store_in(small_disk / "store")
    write(store)
    before = names_in(store.root)
    key = ArtifactKey("documents", "a", "v1")
    with pytest.raises(StorageError, match=r"\(No space left on device\)\. Free some space on that disk") as raised:
        fill(store, key, name)
    assert str(store.place(key).parent) in str(raised.value)
    assert "run again" in str(raised.value)
    assert not store.holds(key)
    assert names_in(store.root) == before
    assert not list(store.root.rglob(".draft-*"))
    read_everything(store)
    write(store, key)
    read_everything(store, key)


def test_a_disk_that_is_full_before_the_manifest_is_told(small_disk, ballast):
    store = store_in(small_disk / "store")
    key = ArtifactKey("documents", "a", "v1")
    load, unload = ballast

    def fill_to_the_brim():
        with store.write(key, inputs=[], code_version="1") as draft:
            draft.array("small", np.arange(3))
            load()

    with pytest.raises(StorageError, match=r"the manifest of documents\[a\] @ v1 cannot be written \(No space left"):
        fill_to_the_brim()
    assert not store.holds(key)
    unload()
    write(store, key)
    read_everything(store, key)


def test_a_disk_that_is_full_from_the_start_is_told(small_disk, ballast):
    store = store_in(small_disk / "store")
    load, unload = ballast
    load()
    with pytest.raises(StorageError, match="No space left"):
        write(store)
    unload()
    write(store)
    read_everything(store)


def test_what_cannot_be_recorded_is_not_removed(small_disk, ballast):
    store = store_in(small_disk / "store")
    write(store)
    record_beside(store.place(KEY)).unlink()  # as in a store of an earlier version
    load, unload = ballast
    load()
    with store.exclusive_lock():
        with pytest.raises(StorageError, match=r"the record of an artifact cannot be written \(No space left"):
            store.reduce_to_record(KEY)
        read_everything(store)
        with pytest.raises(StorageError, match="the mark of its damage cannot be written"):
            store.mark_damaged(store.place(KEY), [], "is damaged")
        read_everything(store)
        assert store.remove(KEY) > 0  # needs no space
    assert not store.holds(KEY)
    assert not list(store.root.rglob(".draft-*"))
    unload()


def test_a_record_that_stands_already_needs_no_space(small_disk, ballast):
    store = store_in(small_disk / "store")
    write(store)
    before = store.manifest(KEY)
    assert before is not None
    load, _ = ballast
    load()
    with store.exclusive_lock():
        assert store.reduce_to_record(KEY) > 0
        assert store.reduce_to_record(KEY) == 0
    assert store.manifest(KEY) == before


@pytest.mark.parametrize("name", FILLED_BY)
def test_a_limit_on_files_is_told_and_nothing_half_written_stays(tmp_path, name):
    code = """
        import resource, sys
        from pathlib import Path
        from influence_assets.errors import StorageError
        from influence_assets.storage.artifacts.manifest import ArtifactKey
        from tests.storage.stored import store_in, write
        from tests.storage.test_full_disk import fill
        store = store_in(Path(sys.argv[1]))
        write(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))
        try:
            fill(store, ArtifactKey("documents", "a", "v1"), sys.argv[2])
        except StorageError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), name],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be written (File too large). Allow larger files there" in done.stdout
    store = store_in(tmp_path)
    key = ArtifactKey("documents", "a", "v1")
    assert not store.holds(key)
    assert not list(store.root.rglob(".draft-*"))
    fill(store, key, name)
    assert store.open(key).verify() == []
    read_everything(store)


def refused_copy(_draft):
    raise shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])


def missing_corpus(_draft):
    raise FileNotFoundError(2, "No such file or directory", "corpus.jsonl")


def bad_sector_of_the_corpus(_draft):
    raise OSError(5, "Input/output error")


def test_a_copy_that_is_refused_is_told(tmp_path):
    store = store_in(tmp_path)
    with pytest.raises(StorageError, match="No space left"), store.write(KEY, inputs=[], code_version="1") as draft:
        refused_copy(draft)


@pytest.mark.parametrize("trouble", [missing_corpus, bad_sector_of_the_corpus])
def test_what_is_not_about_writing_is_raised_as_it_is(tmp_path, trouble):
    store = store_in(tmp_path)
    with pytest.raises(OSError, match=r"No such|Input/output"), store.write(KEY, inputs=[], code_version="1") as draft:
        trouble(draft)
    assert not list(store.root.rglob(".draft-*"))


def test_a_writer_killed_on_a_full_disk_leaves_space_for_the_next(small_disk):
    """What it had written is removed as an abandoned draft, though there is no room for another byte."""
    store = store_in(small_disk / "store")
    code = """
        import os, signal, sys
        from pathlib import Path
        from influence_assets.storage.artifacts.manifest import ArtifactKey
        from tests.storage.stored import store_in
        store, key = store_in(Path(sys.argv[1])), ArtifactKey("documents", "a", "v1")
        with store.write(key, inputs=[], code_version="1") as draft:
            try:
                (draft.folder("model") / "weights").write_bytes(bytes(2**22))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(store.root)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(StorageError, match="No space left"):
        write(store)
    assert len(store.remove_abandoned_drafts()) == 1
    write(store)
    read_everything(store)
