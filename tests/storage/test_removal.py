"""What is removed is gone from the disk; what is reduced leaves its lineage; nothing else is touched."""

import os

import pytest

from influence_assets.durable.files import files_below
from influence_assets.durable.temporary import temporary_name
from influence_assets.errors import StorageError
from influence_assets.storage.artifacts.manifest import ArtifactKey
from tests.storage.stored import INPUTS, KEY, TEXT, read_everything, record_beside, store_in, write

OTHER = ArtifactKey(KEY.asset, KEY.partition, "v2")


@pytest.fixture
def store(tmp_path):
    store = store_in(tmp_path / "store")
    write(store)
    write(store, OTHER)
    return store


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in files_below(folder))


def holds_the_text(folder):
    """Whether a file below the folder holds the text, compressed or not: Parquet's statistics keep it in clear."""
    return [path for path in files_below(folder) if TEXT.encode() in path.read_bytes()]


def test_a_removed_artifact_is_gone(store):
    assert holds_the_text(store.place(KEY))
    record = record_beside(store.place(KEY))
    expected = sum(path.stat().st_size for path in [record, *files_below(store.place(KEY))])
    with store.exclusive_lock():
        assert store.remove(KEY) == expected
        assert store.remove(KEY) == 0
    assert not store.holds(KEY)
    assert store.manifest(KEY) is None
    assert names_in(store.place(KEY).parent) == sorted(
        [".lock", ".record-v2.json", *(f"v2/{name}" for name in names_in(store.place(OTHER)))]
    )
    read_everything(store, OTHER)
    write(store)
    read_everything(store)


def test_a_record_keeps_the_lineage_and_nothing_of_the_content(store):
    before = store.open(KEY).manifest
    content = sum(path.stat().st_size for path in files_below(store.place(KEY)))
    with store.exclusive_lock():
        store.remove(OTHER)
        assert store.reduce_to_record(KEY) == content
    assert not holds_the_text(store.root)
    assert not store.holds(KEY)
    assert store.manifest(KEY) == before
    assert before.inputs == tuple(INPUTS)
    assert list(store.manifests()) == []
    assert list(store.manifests(with_records=True)) == [before]
    assert list(store.manifests(KEY.asset, KEY.partition, with_records=True)) == [before]
    with pytest.raises(StorageError, match="influence run"):
        store.open(KEY)


def test_reducing_twice_keeps_the_record(store):
    with store.exclusive_lock():
        store.reduce_to_record(KEY)
        assert store.reduce_to_record(KEY) == 0
    assert store.manifest(KEY) is not None


def test_what_is_computed_again_replaces_its_record(store):
    with store.exclusive_lock():
        store.reduce_to_record(KEY)
    write(store)
    read_everything(store)
    assert [manifest.key for manifest in store.manifests(with_records=True)] == [KEY, OTHER]
    with store.exclusive_lock():
        store.remove(KEY)
    assert store.manifest(KEY) is None


def test_a_record_is_removed_like_an_artifact(store):
    with store.exclusive_lock():
        store.reduce_to_record(KEY)
        record = record_beside(store.place(KEY))
        size = record.stat().st_size
        assert store.remove(KEY) == size
    assert store.manifest(KEY) is None
    assert not record.exists()


def test_what_is_damaged_is_reduced_while_its_manifest_can_be_read(store):
    store.mark_damaged(store.place(KEY), ["sequences.parquet"], "is cut off")
    store.mark_damaged(store.place(OTHER), ["sequences.parquet"], "is cut off")
    for path in (store.place(OTHER) / "manifest.json", record_beside(store.place(OTHER))):
        path.write_bytes(path.read_bytes()[:200])
    with store.exclusive_lock():
        store.reduce_to_record(KEY)
        store.reduce_to_record(OTHER)
    assert [manifest.key for manifest in store.manifests(with_records=True)] == [KEY]
    assert not store.place(KEY).exists()
    # Of nothing else is it known whose it is: no copy of the manifest names a file any more.
    left = [path.relative_to(store.place(OTHER)) for path in store.place(OTHER).rglob("*") if path.is_file()]
    assert left
    assert all(path.parts[0] == "model" for path in left)


def test_nothing_to_reduce_is_nothing_done(store):
    with store.exclusive_lock():
        assert store.reduce_to_record(ArtifactKey("documents", "nothing", "v1")) == 0


def test_folders_with_nothing_but_locks_are_removed(store):
    empty = ArtifactKey("documents", "empty", "v1")
    recorded = ArtifactKey("documents", "recorded", "v1")
    for key in (empty, recorded):
        with store.partition_lock(key):
            write(store, key)
    with store.exclusive_lock():
        store.remove(empty)
        store.reduce_to_record(recorded)
        removed = store.remove_empty_folders()
    assert set(removed) == {store.place(empty).parent}
    assert store.manifest(recorded) is not None
    read_everything(store)
    with store.exclusive_lock():
        for key in (KEY, OTHER, recorded):
            store.remove(key)
        store.remove_empty_folders()
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == []
    with store.partition_lock(KEY):
        write(store)
    read_everything(store)


def test_folders_of_others_are_not_the_stores(store):
    (store.root / ".cache").mkdir()
    with store.exclusive_lock():
        store.remove_empty_folders()
    assert (store.root / ".cache").is_dir()


def test_alone_the_drafts_of_all_processes_are_removed(store):
    partition = store.place(KEY).parent
    far, reused = (partition / temporary_name(whose) for whose in ("1-elsewhere", f"{os.getpid()}-here"))
    for draft in (far, reused):
        draft.mkdir()
        (draft / "x").write_text(TEXT)
    (partition / temporary_name("1-elsewhere")).write_text("half a record")
    assert store.remove_abandoned_drafts() == []
    with store.exclusive_lock():
        assert len(store.remove_abandoned_drafts()) == 3
    assert not list(partition.glob(".draft-*"))
    read_everything(store)


def test_what_cannot_be_deleted_is_told(store, monkeypatch):
    def refuse(path, *_arguments, **_keywords):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    with store.exclusive_lock(), pytest.raises(StorageError, match=r"v1 cannot be removed \(Operation not permitted\)"):
        store.remove(KEY)
    assert not store.holds(KEY)
    with store.exclusive_lock(), pytest.raises(StorageError, match="half written cannot be removed"):
        store.remove_abandoned_drafts()
    monkeypatch.undo()
    with store.exclusive_lock():
        store.remove_abandoned_drafts()
    assert [path for path in holds_the_text(store.root) if "v2" not in path.parts] == []
