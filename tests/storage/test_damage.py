"""Whatever happens to a file of an artifact, reading it is an error that says so, never another value."""

import hashlib
import importlib.metadata
import json
import os
import pickle
import shutil

import numpy as np
import pytest

from influence_assets.durable.files import files_below
from influence_assets.errors import DamagedError, StorageError
from influence_assets.storage.artifacts import arrays
from influence_assets.storage.artifacts import file_checks as files
from influence_assets.storage.artifacts.manifest import MOST_BITS, ArtifactKey
from tests.storage.stored import (
    INPUTS,
    KEY,
    another_process,
    hear,
    read_everything,
    record_beside,
    store_in,
    tell,
    write,
)

FILES = [
    "manifest.json",
    "sequences.parquet",
    "model/config.json",
    *(f"arrays/{name}/zarr.json" for name in ("tokens", "stream", "signs")),
    "arrays/tokens/c/0/0",
    "arrays/tokens/c/2/0",
    "arrays/stream/c/0/0",
    "arrays/stream/c/3/0",
    "arrays/signs/c/0/0",
    "arrays/signs/c/3/0",
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(arrays, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(arrays, "_CHUNKS_PER_SHARD", 2)
    monkeypatch.setattr(arrays, "_MAPPABLE_CHUNK_BYTES", 128)


@pytest.fixture
def store(tmp_path):
    store = store_in(tmp_path / "store")
    write(store)
    return store


@pytest.fixture
def place(store):
    return store.place(KEY)


def flip_a_bit(path, at, bit=2):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def test_undamaged_it_is_what_was_written(store, place):
    assert set(FILES) <= {path.relative_to(place).as_posix() for path in files_below(place)}
    read_everything(store)
    assert list(store.verify()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_an_error(store, place, name):
    original = (place / name).read_bytes()
    step = max(1, len(original) // 40)
    for at in {*range(0, len(original), step), len(original) - 1}:
        flip_a_bit(place / name, at, bit=at % 8)
        with pytest.raises(DamagedError, match="`influence run` computes it again") as raised:
            read_everything(store)
        assert raised.value.folder == place
        assert raised.value.files == (name,)
        (place / name).write_bytes(original)
    read_everything(store)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "longer", "a folder", "zeros"])
def test_any_file_lost_or_torn_is_an_error(store, place, name, damage):
    path = place / name
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        half = len(content) // 2
        torn = {"empty": b"", "cut": content[:-1], "longer": content + b" ", "zeros": content[:half] + bytes(half)}
        path.write_bytes(torn[damage])
    with pytest.raises(DamagedError) as raised:
        read_everything(store)
    assert raised.value.folder == place
    [found] = store.verify()
    assert (found.folder, found.files) == (place, (name,))
    assert found.key == KEY


def test_a_chunk_damaged_after_opening_is_an_error(store, place):
    artifact = store.open(KEY)
    flip_a_bit(place / "arrays/tokens/c/1/0", 3)
    with pytest.raises(DamagedError, match="tokens"):
        artifact.array("tokens")
    shutil.rmtree(place / "arrays/stream/c/1")
    with pytest.raises(DamagedError, match="chunk is missing"):
        artifact.array("stream")


def test_a_figure_changed_in_the_manifest_is_noticed(store, place):
    text = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(text.replace('"sequences": 40', '"sequences": 41'))
    assert store.holds(KEY)
    manifest = store.manifest(KEY)  # of the record
    assert manifest is not None
    assert manifest.summary["sequences"] == 40
    assert list(store.manifests()) == [manifest]
    record_beside(place).unlink()
    assert store.manifest(KEY) is None
    assert list(store.manifests()) == []
    with pytest.raises(DamagedError, match=r"manifest\.json: is not a manifest as it was written"):
        store.open(KEY)


def test_a_manifest_stands_in_two_files_with_the_checksum_of_its_other_lines(place):
    content = (place / "manifest.json").read_bytes()
    assert record_beside(place).read_bytes() == content
    lines = content.removesuffix(b"\n").split(b"\n")
    written = json.loads(content)
    del lines[1]
    assert written["checksum"] == hashlib.sha256(b"\n".join(lines)).hexdigest()
    assert written["format_version"] == 4


def test_a_manifest_names_the_libraries_that_computed_the_artifact(store):
    assert store.open(KEY).manifest.libraries == {
        name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy", "influence-assets")
    }


def test_what_an_artifact_was_made_of_outlives_any_damaged_byte_of_its_manifest(store, place):
    path, whole = place / "manifest.json", store.manifest(KEY)
    original = path.read_bytes()
    for at in {*range(0, len(original), len(original) // 40), len(original) // 2, len(original) - 1}:
        flip_a_bit(path, at, bit=at % 8)
        assert store.manifest(KEY) == whole
        with pytest.raises(DamagedError):
            store.open(KEY)
        path.write_bytes(original)
    for kept in (len(original) // 2, 2 * len(original) // 3, len(original) - 1):
        path.write_bytes(original[:kept])
        assert store.manifest(KEY) == whole
    path.write_bytes(original[: len(original) // 3])
    assert store.manifest(KEY) == whole
    record_beside(place).unlink()
    assert store.manifest(KEY) is None


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("is_alone", [False, True], ids=["manifest and record", "record alone"])
def test_a_few_damaged_bits_of_both_copies_are_mended(store, place, bits, is_alone):
    """Wherever they are in two copies, and however they are divided between them."""
    whole, record = store.manifest(KEY), record_beside(place)
    if is_alone:
        store.reduce_to_record(KEY)
    generator = np.random.default_rng(bits)
    files = [record] if is_alone else [place / "manifest.json", record]
    for _ in range(4):
        originals = [file.read_bytes() for file in files]
        size = sum(map(len, originals)) // 2
        for number, at in enumerate(generator.choice(size, bits, replace=False)):
            in_second = number % 2 if number < 2 else int(generator.integers(2))  # neither copy stays intact
            if is_alone:
                flip_a_bit(record, in_second * size + at, bit=int(generator.integers(8)))
            else:
                flip_a_bit(files[in_second], at, bit=int(generator.integers(8)))
        assert store.manifest(KEY) == whole
        assert {damage.key for damage in store.verify()} <= {KEY, None}
        for file, original in zip(files, originals, strict=True):
            file.write_bytes(original)


@pytest.mark.parametrize("bits", [11, 40])
def test_what_many_damaged_bits_leave_of_both_copies_is_nothing(store, place, bits):
    for file, start in ((place / "manifest.json", 100), (record_beside(place), 300)):
        for at in range(bits):
            flip_a_bit(file, start + at)
    assert store.manifest(KEY) is None


def test_an_artifact_in_anothers_place_is_damage(store, place):
    other = ArtifactKey("token_sequences", "other", "v1")
    write(store, other)
    shutil.rmtree(store.place(other))
    place.rename(store.place(other))
    with pytest.raises(DamagedError, match="whose folder is another"):
        store.open(other)
    assert [found.folder for found in store.verify()] == [store.place(other)]


def test_an_artifact_that_somebody_put_in_anothers_place_is_not_the_stores(store, place):
    other = ArtifactKey("token_sequences", "other", "v1")
    shutil.copytree(place, store.place(other))
    with pytest.raises(StorageError, match="lies where an artifact belongs"):
        store.open(other)
    assert [manifest.key for manifest in store.manifests()] == [KEY]
    assert store.manifest(other) is None
    assert list(store.verify()) == []


def test_what_was_found_right_is_read_once_until_it_changes(store, place, monkeypatch):
    read = []
    monkeypatch.setattr(files, "sha256_of", lambda path, of=files.sha256_of: (read.append(path.name), of(path))[1])
    artifact = store.open(KEY)
    for _ in range(3):
        artifact.table("sequences")
        artifact.path("model")
    assert sorted(read) == ["config.json", "sequences.parquet"]
    os.utime(place / "sequences.parquet")
    artifact.table_path("sequences")
    assert sorted(read) == ["config.json", "sequences.parquet", "sequences.parquet"]


def test_a_file_that_may_not_be_read_is_no_damage(store, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "sha256_of", refuse)
    with pytest.raises(StorageError, match="Permission denied") as raised:
        store.open(KEY).table("sequences")
    assert not isinstance(raised.value, DamagedError)


def test_a_bad_sector_is_damage(store, monkeypatch):
    def fail(_path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sha256_of", fail)
    with pytest.raises(DamagedError, match="Input/output error"):
        store.open(KEY).table("sequences")


class TestMark:
    def test_marked_it_is_not_held_and_computed_again(self, store, place):
        flip_a_bit(place / "arrays/tokens/c/1/0", 3)
        [found] = store.verify()
        assert store.holds(KEY)
        store.mark_damaged(found.folder, found.files, found.problem)
        assert not store.holds(KEY)
        assert list(store.manifests()) == []
        assert [manifest.key for manifest in store.manifests(with_damaged=True)] == [KEY]
        manifest = store.manifest(KEY)
        assert manifest is not None
        assert manifest.inputs == tuple(INPUTS)
        with pytest.raises(DamagedError, match=r"tokens/c/1/0: is not as it was written"):
            store.open(KEY)
        assert list(store.verify()) == [found]
        write(store)
        assert store.holds(KEY)
        read_everything(store)
        assert list(store.verify()) == []
        assert not [path for path in place.parent.iterdir() if path.name.startswith(".draft-")]
        assert not (place / "damaged.json").exists()

    def test_what_stands_undamaged_is_not_replaced(self, store, place):
        before = place.stat().st_ino
        write(store)
        assert place.stat().st_ino == before

    def test_a_mark_that_is_damaged_itself_still_counts(self, store, place):
        (place / "damaged.json").write_text("{")
        assert not store.holds(KEY)
        with pytest.raises(DamagedError, match="is marked as damaged"):
            store.open(KEY)
        write(store)
        read_everything(store)

    def test_only_artifacts_of_the_store_are_marked(self, store, tmp_path):
        with pytest.raises(ValueError, match="not the place"):
            store.mark_damaged(tmp_path, [], "is elsewhere")
        store.mark_damaged(store.place(KEY).with_name("v2"), [], "is not there")
        assert not store.place(KEY).with_name("v2").exists()

    def test_the_error_crosses_processes(self, place):
        error = DamagedError(place, ["a", "b", "c"], "is cut off")
        again = pickle.loads(pickle.dumps(error))
        assert (again.folder, again.files, again.problem, str(again)) == (
            place,
            ("a", "b", "c"),
            "is cut off",
            str(error),
        )
        assert str(error) == f"{place}/a (and 2 more of its files): is cut off. `influence run` computes it again."


class TestVerify:
    def test_reads_again_what_reading_took_for_right(self, store, place):
        """A disk that loses a bit leaves size and times as they were."""
        read_everything(store)
        path = place / "sequences.parquet"
        before = path.stat()
        flip_a_bit(path, 9)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        [found] = store.verify()
        assert found.files == ("sequences.parquet",)

    def test_names_every_damaged_file_and_no_other(self, store, place):
        (place / "model/config.json").unlink()
        flip_a_bit(place / "sequences.parquet", 9)
        (place / "model/extra.json").write_text("{}")
        [found] = store.verify()
        assert set(found.files) == {"model/config.json", "sequences.parquet"}

    def test_tells_how_far_it_is(self, store):
        write(store, ArtifactKey("documents", "a", "v1"))
        with store.exclusive_lock():
            write(store, ArtifactKey("documents", "b", "v1"))
            store.reduce_to_record(ArtifactKey("documents", "b", "v1"))
        seen = []
        assert list(store.verify(lambda done, total: seen.append((done, total)))) == []
        assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def test_a_damaged_record_is_found_and_mended_from_its_other_copy(self, store, place):
        with store.exclusive_lock():
            store.reduce_to_record(KEY)
        [record] = place.parent.glob(".record-*")
        original = record.read_bytes()
        for at in (200, len(original) - 200):
            flip_a_bit(record, at)
            [found] = store.verify()
            assert (found.folder, found.files) == (place, (f"../{record.name}",))
            store.mark_damaged(found.folder, found.files, found.problem)
            assert list(store.verify()) == []
            assert record.read_bytes() == original

    def test_a_damaged_record_beside_an_artifact_is_mended_from_it(self, store, place):
        record, original = record_beside(place), record_beside(place).read_bytes()
        for spoilt in (original[:200] + b"x" + original[201:], original[:-300], b"", b"{}"):
            record.write_bytes(spoilt)
            [found] = store.verify()
            assert (found.key, found.folder, found.files) == (KEY, place, (f"../{record.name}",))
            assert store.mark_damaged(found.folder, found.files, found.problem)
            assert list(store.verify()) == []
            assert record.read_bytes() == original
            assert store.holds(KEY)

    def test_a_record_of_which_neither_copy_is_whole_is_given_up(self, store, place):
        with store.exclusive_lock():
            store.reduce_to_record(KEY)
        [record] = place.parent.glob(".record-*")
        for place_of_bit in range(MOST_BITS):
            flip_a_bit(record, 200 + place_of_bit)
            flip_a_bit(record, record.stat().st_size - 200 - place_of_bit)
        [found] = store.verify()
        assert (found.key, found.folder, found.files) == (None, place, (f"../{record.name}",))
        store.mark_damaged(found.folder, found.files, found.problem)
        assert list(store.verify()) == []
        assert store.manifest(KEY) is None

    def test_what_another_process_replaces_meanwhile_is_no_damage(self, store, place, monkeypatch):
        """The folder is replaced by another process just when its first file has been read and found wrong."""
        flip_a_bit(place / "model/config.json", 3)
        code = """
            wait()
            store.mark_damaged(store.place(KEY), [], "is damaged")
            write(store)
            say("replaced")
        """
        original = files.sha256_of
        with another_process(code, store.root) as writer:

            def replaced_after_the_first(path):
                found = original(path)
                if writer.poll() is None:
                    tell(writer)
                    hear(writer, "replaced")
                    writer.wait()
                return found

            monkeypatch.setattr(files, "sha256_of", replaced_after_the_first)
            assert list(store.verify()) == []
        read_everything(store)


def test_a_torn_shard_of_zeros_is_not_zeros(store, place):
    """What a power cut leaves of a file on some disks: its size, and zeros."""
    path = place / "arrays/stream/c/1/0"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DamagedError) as raised:
        store.open(KEY).array("stream")
    assert raised.value.files == ("arrays/stream/c/1/0",)
