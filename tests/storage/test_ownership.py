"""What the product did not make is not the store's, whatever it is called and wherever it lies."""

import json
import shutil

import pytest

from influence_assets.durable.temporary import is_temporary_name, temporary_beside
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.artifacts import MARKER, ArtifactStore
from influence_assets.storage.artifacts.manifest import ArtifactKey
from influence_assets.storage.artifacts.names import record_of
from tests.foreign import fingerprints, plant
from tests.storage.stored import KEY, read_everything, store_in, write

DOCUMENTS = ArtifactKey("documents", "a", "v1")
OTHER = ArtifactKey("documents", "a", "v2")


@pytest.fixture
def store(tmp_path):
    store = store_in(tmp_path / "store")
    for key in (KEY, DOCUMENTS, OTHER):
        write(store, key)
    return store


def test_nothing_that_a_store_does_touches_foreign_files(store):
    foreign = plant(store.root)
    before = fingerprints(foreign)
    assert list(store.verify()) == []
    assert {manifest.key for manifest in store.manifests(with_records=True, with_damaged=True)} == {
        KEY,
        DOCUMENTS,
        OTHER,
    }
    for place in [path for path in foreign if path.parent.parent.parent == store.root]:
        assert not store.mark_damaged(place, [], "is damaged")
    store.remove_abandoned_drafts()
    with store.exclusive_lock():
        store.remove_abandoned_drafts()
        store.remove_unreadable()
        store.remove(DOCUMENTS)
        store.reduce_to_record(OTHER)
        store.remove_empty_folders()
    assert fingerprints(foreign) == before
    assert list(store.verify()) == []
    assert [manifest.key for manifest in store.manifests()] == [KEY]


def test_a_foreign_file_in_an_artifact_outlives_it(store):
    thesis = store.place(KEY) / "model" / "thesis.txt"
    thesis.write_text("mine")
    assert list(store.verify()) == []
    with store.exclusive_lock():
        store.reduce_to_record(KEY)
    assert [path for path in store.place(KEY).rglob("*") if path.is_file()] == [thesis]
    assert list(store.verify()) == []
    assert not store.has_content(KEY)
    with pytest.raises(StorageError, match=r"lies where an artifact belongs.*Move it away"):
        write(store)
    assert thesis.read_text() == "mine"
    shutil.rmtree(store.place(KEY))
    write(store)
    read_everything(store)


def test_a_damaged_artifact_is_not_replaced_over_a_foreign_file(store):
    thesis = store.place(KEY) / "thesis.txt"
    thesis.write_text("mine")
    assert not store.mark_damaged(store.place(KEY), ["sequences.parquet"], "is cut off")
    with pytest.raises(StorageError, match=r"thesis\.txt: lies where an artifact belongs"):
        write(store)
    assert thesis.read_text() == "mine"
    thesis.unlink()
    write(store)
    read_everything(store)


def _flipped(content, after):
    place = content.index(after) + len(after) + 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _blotted(content, after):
    """More bits than two copies can make up for."""
    place = content.index(after) + len(after) + 3
    return content[:place] + bytes(8) + content[place + 8 :]


DAMAGES = {
    "a figure": lambda content: _flipped(content, b'"seconds"'),
    "a file's name": lambda content: _flipped(content, b'"files"'),
    "the end cut off": lambda content: content[: -len(content) // 4],
}


@pytest.mark.parametrize("spoil", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("remove", ["remove_unreadable", "clear"])
def test_a_foreign_file_outlives_an_artifact_of_which_no_manifest_can_be_read(store, spoil, remove):
    folder = store.place(KEY)
    record = store.root / record_of(folder.relative_to(store.root).as_posix())
    thesis, notes = folder / "model" / "thesis.txt", folder / "notes.txt"
    for foreign in (thesis, notes):
        foreign.write_text("mine")
    (folder / "manifest.json").write_bytes(spoil((folder / "manifest.json").read_bytes()))
    record.write_bytes(_blotted(record.read_bytes(), b'"seconds"'))
    assert not store.mark_damaged(folder, ["manifest.json"], "is not as it was written")
    if remove == "clear":
        with pytest.raises(StorageError, match="lies where an artifact belongs"):
            write(store)
    else:
        with store.exclusive_lock():
            store.remove_unreadable()
        assert {path for path in folder.rglob("*") if path.is_file()} == {thesis, notes}
        assert not record.exists()
    assert (thesis.read_text(), notes.read_text()) == ("mine", "mine")


@pytest.mark.parametrize("manifest", ["{}", "", json.dumps({"checksum": "0" * 64, "study": "topics"})])
def test_a_foreign_folder_in_an_artifacts_place_is_named_and_left(store, manifest):
    key = ArtifactKey("documents", "b", "v1")
    store.place(key).mkdir(parents=True)
    (store.place(key) / "manifest.json").write_text(manifest)
    for use in (lambda: store.open(key), lambda: write(store, key)):
        with pytest.raises(StorageError, match=r"lies where an artifact belongs.*Move it away") as raised:
            use()
        assert str(store.place(key)) in str(raised.value)
    assert (store.place(key) / "manifest.json").read_text() == manifest


def test_an_artifact_is_known_by_its_record_alone_and_by_its_manifest_alone(store):
    (store.place(KEY) / "manifest.json").unlink()
    assert [damage.key for damage in store.verify()] == [KEY]
    write(store)
    next(store.place(KEY).parent.glob(".record-*")).unlink()
    manifest = store.place(KEY) / "manifest.json"
    content = bytearray(manifest.read_bytes())
    content[500] ^= 1
    content[-500] ^= 1
    manifest.write_bytes(content)
    [damage] = store.verify()
    assert damage.folder == store.place(KEY)
    write(store)
    read_everything(store)


def test_the_name_of_a_draft_is_told_from_one_that_is_only_like_it(tmp_path):
    draft = temporary_beside(tmp_path / "x")
    assert is_temporary_name(draft.name)
    changed = draft.name[:10] + ("0" if draft.name[10] != "0" else "1") + draft.name[11:]
    assert not is_temporary_name(changed)
    assert not is_temporary_name(f"{draft.name}x")


class TestRoot:
    @pytest.mark.parametrize("name", ["notes/", "thesis.txt", ".git/"])
    def test_a_folder_of_others_is_refused_and_left_as_it_is(self, tmp_path, name):
        strange = tmp_path / name
        strange.mkdir() if name.endswith("/") else strange.write_text("mine")
        with pytest.raises(InputError, match=r"storage\.root.*holds other things.*Name a new or empty folder"):
            ArtifactStore.open_or_create(tmp_path, "topics")
        assert [path.name for path in tmp_path.iterdir()] == [name.removesuffix("/")]

    @pytest.mark.parametrize("name", ["lost+found/", ".dagster/", ".gitkeep"])
    def test_what_systems_put_into_an_empty_folder_is_no_hindrance(self, tmp_path, name):
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
        write(ArtifactStore.open_or_create(tmp_path, "topics"))

    def test_a_store_that_lost_its_marker_is_known_by_its_artifacts(self, store):
        (store.root / MARKER).unlink()
        (store.root / "thesis.txt").write_text("mine")
        with pytest.raises(InputError, match="holds other things"):
            ArtifactStore.open_or_create(store.root, "novels")
        read_everything(store_in(store.root))

    def test_foreign_things_in_a_standing_store_are_no_hindrance(self, store):
        (store.root / "thesis.txt").write_text("mine")
        read_everything(store_in(store.root))
