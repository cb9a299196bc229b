"""Digests: what stays is not read again, and nothing that was written passes for what was there."""

import gzip
import hashlib
import json
import os
from types import SimpleNamespace

import fsspec
import pytest
from small_corpora import lines

from influence_assets.corpus import measured_files
from influence_assets.corpus.measured_files import Digests, file_hash
from influence_assets.corpus.slices import list_shards
from influence_assets.corpus.sources import SourceFile
from influence_assets.durable import identity
from influence_assets.study import Corpus

SECOND_NS = 10**9


class Machine:
    """A corpus, the file of digests, a clock that stands and the files that were opened."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder / "corpus"
        self.folder.mkdir()
        self.path = folder / "cache" / "digests"
        self.opened = []
        self.now_ns = 0
        real = measured_files.open_raw
        monkeypatch.setattr(
            measured_files, "open_raw", lambda url: self.opened.append(url.rpartition("/")[2]) or real(url)
        )
        monkeypatch.setattr(identity, "time", SimpleNamespace(time_ns=lambda: self.now_ns))

    def write(self, name, content):
        """Write a file, and let 10 s pass."""
        (self.folder / name).write_bytes(content)
        self.wait(name, 10)

    def wait(self, name, seconds):
        """Let it be so long since the file changed."""
        self.now_ns = int((self.folder / name).stat().st_ctime_ns + seconds * SECOND_NS)

    def hashes(self, **corpus):
        """Each shard's hash as a new process sees it."""
        remembered = Digests(self.path)
        shards = list_shards(Corpus(path=str(self.folder), **corpus), remembered)
        remembered.save()
        return {shard.shard_id: shard.content_hash for shard in shards}

    def opened_by(self, **corpus):
        self.opened.clear()
        self.hashes(**corpus)
        return self.opened


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


A, B = lines({"text": "a"}), lines({"text": "b"})


def test_what_stays_is_read_once(machine):
    machine.write("a.jsonl", A)
    machine.write("b.jsonl", B)
    first = machine.hashes(shard_bytes=20)
    assert machine.opened == ["a.jsonl", "b.jsonl"]
    assert machine.opened_by(shard_bytes=20) == []
    assert machine.hashes(shard_bytes=20) == first == {"a.jsonl": sha256(A), "b.jsonl": sha256(B)}


def test_other_settings_of_the_rule_read_again(machine):
    machine.write("a.jsonl", A + B)
    assert len(machine.hashes(shard_bytes=1000)) == 1
    assert machine.hashes(shard_bytes=len(A)) == {"a.jsonl": sha256(A), "a.jsonl@00001": sha256(B)}
    assert machine.opened_by(shard_bytes=len(A), max_document_bytes=1) == ["a.jsonl"]


def test_an_edit_whose_time_is_set_back_is_seen(machine):
    machine.write("a.jsonl", A)
    machine.hashes()
    file = machine.folder / "a.jsonl"
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # within one tick of the file system's clock
        file.write_bytes(B)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert machine.hashes() == {"a.jsonl": sha256(B)}


def test_a_touch_changes_nothing(machine):
    machine.write("a.jsonl", A)
    first = machine.hashes()
    os.utime(machine.folder / "a.jsonl", ns=(0, 0))
    machine.wait("a.jsonl", 10)
    assert machine.opened_by() == ["a.jsonl"]
    assert machine.hashes() == first


def test_a_file_put_in_the_place_of_another_is_seen(machine):
    machine.write("a.jsonl", A)
    machine.hashes()
    (machine.folder / "new").write_bytes(B)
    (machine.folder / "new").replace(machine.folder / "a.jsonl")
    assert machine.hashes() == {"a.jsonl": sha256(B)}


@pytest.mark.parametrize("seconds", [0, 1.9, -3600])
def test_a_file_that_changed_lately_or_in_the_future_is_read_every_time(machine, seconds):
    machine.write("a.jsonl", A)
    machine.wait("a.jsonl", seconds)
    assert machine.opened_by() == ["a.jsonl"]
    assert machine.opened_by() == ["a.jsonl"], "it was not remembered"
    machine.wait("a.jsonl", 2)
    assert machine.opened_by() == ["a.jsonl"]
    assert machine.opened_by() == []
    machine.wait("a.jsonl", seconds)
    assert machine.opened_by() == ["a.jsonl"], "what is remembered does not count either when the clock jumps back"


def test_a_long_reading_does_not_make_a_late_change_old(machine):
    """The file changed just before it was read: a further change meanwhile may bear the same time."""
    machine.write("a.jsonl", A)
    machine.wait("a.jsonl", 0.5)
    remembered = Digests(machine.path)

    def measure(_):
        machine.wait("a.jsonl", 60)
        return "torn"

    url = str(machine.folder / "a.jsonl")
    assert remembered.measured(url, "x", measure) == "torn"
    assert remembered.measured(url, "x", lambda _: "whole") == "whole"


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(machine):
    machine.write("a.jsonl", A)
    url = str(machine.folder / "a.jsonl")
    remembered = Digests(machine.path)

    def measure(_):
        (machine.folder / "a.jsonl").write_bytes(A + B)
        return "torn"

    assert remembered.measured(url, "x", measure) == "torn"
    remembered.save()
    assert not machine.path.exists()
    machine.wait("a.jsonl", 10)
    assert remembered.measured(url, "x", lambda _: "whole") == "whole"
    assert remembered.measured(url, "x", lambda _: "never asked") == "whole"


def test_damage_is_remembered_and_its_mending_seen(machine):
    machine.write("a.jsonl.gz", b"not packed")
    damaged = machine.hashes()
    assert damaged["a.jsonl.gz"].startswith("damaged-")
    assert machine.opened_by() == []
    machine.write("a.jsonl.gz", gzip.compress(A))
    assert machine.hashes() == {"a.jsonl.gz": sha256(A)}


def test_a_failing_disk_is_not_remembered(machine, monkeypatch):
    machine.write("a.jsonl", A)

    def failing(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("influence_assets.corpus.formats.jsonl.bounded_lines", failing)
        assert machine.hashes() == {"a.jsonl": measured_files.UNREADABLE}
    assert machine.hashes() == {"a.jsonl": sha256(A)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda content: content[:-3],
        lambda content: content.replace(b"a.jsonl", b"b.jsonl"),
        lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
        lambda _: b"\xff" * 50,
        lambda _: sha256(b"[1]").encode() + b"\n[1]",
        lambda _: sha256(b'{"a": 1}').encode() + b'\n{"a": 1}',
    ],
)
def test_a_damaged_file_of_digests_only_costs_reading(machine, spoil):
    machine.write("a.jsonl", A)
    machine.hashes()
    machine.path.write_bytes(spoil(machine.path.read_bytes()))
    assert machine.opened_by() == ["a.jsonl"]
    assert machine.opened_by() == []


def test_files_that_are_gone_are_forgotten_and_others_are_not(machine):
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        machine.write(name, A)
    query_file = SourceFile("c.jsonl", str(machine.folder / "c.jsonl"), len(A))
    machine.hashes()
    (machine.folder / "a.jsonl").unlink()
    remembered = Digests(machine.path)
    assert file_hash(query_file, remembered) == sha256(A)
    remembered.save()
    kept = json.loads(machine.path.read_bytes().partition(b"\n")[2])
    assert sorted(url.rpartition("/")[2] for url in kept) == ["b.jsonl", "c.jsonl"]


def test_nothing_is_written_where_nothing_changed(machine):
    machine.write("a.jsonl", A)
    machine.hashes()
    before = machine.path.stat()
    machine.hashes()
    assert machine.path.stat() == before


def test_a_folder_that_cannot_be_written_is_no_error(machine, tmp_path):
    machine.write("a.jsonl", A)
    (tmp_path / "cache").write_text("a file, where the folder would be")
    assert machine.hashes() == {"a.jsonl": sha256(A)}


def test_the_hash_of_a_query_file_is_of_its_stored_bytes(machine):
    machine.write("q.jsonl.gz", b"anything")
    file = SourceFile("q.jsonl.gz", str(machine.folder / "q.jsonl.gz"), 8)
    remembered = Digests(machine.path)
    assert file_hash(file, remembered) == file_hash(file, remembered) == sha256(b"anything")
    assert machine.opened == ["q.jsonl.gz"]
    (machine.folder / "q.jsonl.gz").unlink()
    assert file_hash(file, remembered) == measured_files.UNREADABLE


def test_a_file_elsewhere_is_read_every_time(machine):
    memory = fsspec.filesystem("memory")
    file = SourceFile("q.jsonl", "memory:///digests/q.jsonl", 1)
    remembered = Digests(machine.path)
    for content in (b"1", b"2"):
        memory.pipe("/digests/q.jsonl", content)
        assert file_hash(file, remembered) == sha256(content)
