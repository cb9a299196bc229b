"""The store's list of withdrawn documents: what damage it outlives, and who may change it."""

import json
import multiprocessing
import os
from datetime import UTC, datetime

import polars as pl
import pytest

from influence_assets.corpus.withdrawn import Withdrawal
from influence_assets.engine.store_list import StoreList
from influence_assets.engine.tombstones import TOMBSTONE_SCHEMA, VANISHED, Tombstones
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.backends.local import LocalBackend

IDS = [f"{n:032x}" for n in range(1, 40)]
NOON = "2025-01-31T12:00:00+00:00"


def entry(document_id, reason="r", at=NOON):
    return Withdrawal(document_id, reason, at)


def ids(root):
    return sorted(StoreList(LocalBackend(str(root))).entries())


def files(root):
    return [root / "withdrawn.jsonl", root / ".copies" / "withdrawn.jsonl"]


def bury(root, *rows):
    """Tombstones of documents, each with its reason and who listed it."""
    at = datetime(2025, 1, 31, 12, tzinfo=UTC)
    frame = [("a.jsonl", document_id, reason, at, by) for document_id, reason, by in rows]
    Tombstones(LocalBackend(str(root))).store(pl.DataFrame(frame, schema=TOMBSTONE_SCHEMA, orient="row"))


DAMAGE = {
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-20] + b"\1" + path.read_bytes()[-19:]),
    "a line that is gone": lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1])),
    "a checksum that is gone": lambda path: path.write_text(path.read_text().partition("\n")[2]),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:90]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path: path.unlink(),
}


def test_what_is_added_is_kept_in_both_files(tmp_path):
    stores = StoreList(LocalBackend(str(tmp_path)))
    assert stores.entries() == {}
    new = [entry(IDS[0], "é\n"), entry(IDS[1]), entry(IDS[1], "twice")]
    assert stores.add(new) == new[:2]
    assert stores.add([entry(IDS[1], "known"), entry(IDS[2], at="2025-01-31T13:00:00+01:00")]) == [entry(IDS[2])]
    assert list(StoreList(LocalBackend(str(tmp_path))).entries().values()) == [
        entry(IDS[0], "é\n"),
        entry(IDS[1]),
        entry(IDS[2]),
    ]
    assert stores.add([entry(IDS[0])]) == []
    one, other = (path.read_bytes() for path in files(tmp_path))
    assert one == other
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_copy_is_mended_from_the_other(tmp_path, damage, which):
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0]), entry(IDS[1])])
    before = files(tmp_path)[0].read_bytes()
    DAMAGE[damage](files(tmp_path)[which])
    assert ids(tmp_path) == IDS[:2]
    assert list(StoreList(LocalBackend(str(tmp_path))).repair()) == [files(tmp_path)[which]]
    assert [path.read_bytes() for path in files(tmp_path)] == [before, before]
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}


@pytest.mark.parametrize("damage", DAMAGE)
def test_of_two_damaged_copies_the_tombstones_keep_documents_out(tmp_path, damage):
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0]), entry(IDS[1], "by letter")])
    bury(tmp_path, (IDS[1], "by letter", "store"), (IDS[2], VANISHED, None), (IDS[3], "r", "study"))
    for path in files(tmp_path):
        DAMAGE[damage](path)
    assert IDS[1] in ids(tmp_path)
    assert not {IDS[2], IDS[3]} & set(ids(tmp_path)), "nobody withdrew the one, and the study says of the other"
    stores = StoreList(LocalBackend(str(tmp_path)))
    if damage in ("deleted", "a checksum that is gone"):
        assert set(stores.repair()) == set(files(tmp_path))
    else:
        assert_refused(tmp_path)
        stores.restore([])
    assert StoreList(LocalBackend(str(tmp_path))).entries()[IDS[1]] == entry(IDS[1], "by letter")
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}


def assert_refused(root):
    """Nothing can be computed, and the list stays as it is."""
    before = [path.read_bytes() for path in files(root) if path.exists()]
    for attempt in (StoreList.refuse_doubt, StoreList.repair):
        with pytest.raises(StorageError, match="influence forget --restore"):
            attempt(StoreList(LocalBackend(str(root))))
    assert [path.read_bytes() for path in files(root) if path.exists()] == before


LEFT_AS_WHOLE = {"a checksum that is gone", "deleted"}


@pytest.mark.parametrize("one", DAMAGE)
@pytest.mark.parametrize("other", sorted(DAMAGE.keys() - LEFT_AS_WHOLE))
@pytest.mark.parametrize("tombstones", ["whole", "damaged", "none"])
def test_a_list_of_which_no_copy_is_whole_is_doubtful_until_a_person_restores_it(tmp_path, one, other, tombstones):
    """Whatever else is known: an id that no shard had is known to the list alone."""
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0]), entry(IDS[1])])
    if tombstones != "none":
        bury(tmp_path, (IDS[1], "r", "store"))
    if tombstones == "damaged":
        for path in (tmp_path / "tombstones.jsonl", tmp_path / ".copies" / "tombstones.jsonl"):
            path.write_bytes(b"")
    DAMAGE[one](files(tmp_path)[0])
    DAMAGE[other](files(tmp_path)[1])
    if one == "a checksum that is gone":
        assert ids(tmp_path) == IDS[:2], "its lines are whole"
        return
    assert_refused(tmp_path)
    stores = StoreList(LocalBackend(str(tmp_path)), lambda: {IDS[3]: entry(IDS[3], "known elsewhere")})
    assert IDS[3] in stores.entries()
    assert stores.add([entry(IDS[4])]) == [entry(IDS[4])], "what is withdrawn meanwhile is listed"
    assert_refused(tmp_path)
    assert {IDS[3], IDS[4]} <= set(ids(tmp_path))
    assert {IDS[0], IDS[3], IDS[4]} <= {one.document_id for one in stores.restore([entry(IDS[0])])}
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}
    assert {IDS[0], IDS[3], IDS[4]} <= set(ids(tmp_path))


def test_a_missing_list_is_doubtful_if_the_tombstones_cannot_say_whether_there_was_one(tmp_path):
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}
    bury(tmp_path, (IDS[1], "r", "store"))
    for path in (tmp_path / "tombstones.jsonl", tmp_path / ".copies" / "tombstones.jsonl"):
        path.write_bytes(b"")
    assert_refused(tmp_path)
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[4])])
    assert_refused(tmp_path)
    StoreList(LocalBackend(str(tmp_path))).restore([])
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}
    assert ids(tmp_path) == [IDS[4]]


def test_of_two_damaged_copies_what_can_be_read_stays_out(tmp_path):
    """Also documents of which no shard had any, so that no tombstone tells of them."""
    StoreList(LocalBackend(str(tmp_path))).add([entry(document_id) for document_id in IDS[:9]])
    for path, line in zip(files(tmp_path), (3, 5), strict=True):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:line], "}{\n", *lines[line + 1 :]]))
    assert ids(tmp_path) == IDS[:9]


def test_copies_that_differ_both_count(tmp_path):
    """As after the death of a process between the two."""
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0])])
    old = files(tmp_path)[1].read_bytes()
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[1])])
    files(tmp_path)[1].write_bytes(old)
    assert ids(tmp_path) == IDS[:2]
    assert list(StoreList(LocalBackend(str(tmp_path))).repair()) == [files(tmp_path)[1]]
    assert ids(tmp_path) == IDS[:2]
    new = files(tmp_path)[1].read_bytes()
    StoreList(LocalBackend(str(tmp_path))).remove([IDS[0]])
    files(tmp_path)[1].write_bytes(new)
    assert ids(tmp_path) == IDS[:2], "a removal that did not come to its end did not happen"


def test_a_list_of_old_is_read_and_written_anew_at_the_next_change(tmp_path):
    rows = [{"document_id": IDS[0], "reason": "é", "withdrawn_at": NOON}, {"document_id": IDS[1]}]
    files(tmp_path)[0].write_text("\n\n".join(json.dumps(row) for row in rows))
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}, "it is not damaged"
    assert list(StoreList(LocalBackend(str(tmp_path))).entries().values()) == [
        entry(IDS[0], "é"),
        entry(IDS[1], "", ""),
    ]
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[2])])
    assert ids(tmp_path) == IDS[:3]
    assert files(tmp_path)[0].read_bytes() == files(tmp_path)[1].read_bytes()
    assert "sha256" in files(tmp_path)[0].read_text()


def test_tombstones_of_old_keep_documents_out_unless_the_studys_list_has_them(tmp_path):
    bury(tmp_path, (IDS[0], "r", None), (IDS[1], "r", None))
    assert sorted(StoreList(LocalBackend(str(tmp_path))).entries(elsewhere={IDS[1]})) == IDS[:1]
    assert StoreList(LocalBackend(str(tmp_path))).repair(elsewhere={IDS[1]}) != {}
    assert ids(tmp_path) == IDS[:1], "and that the list was lost is known once"


def test_a_document_can_be_taken_off_again(tmp_path):
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0]), entry(IDS[1])])
    bury(tmp_path, (IDS[0], "r", "store"))
    assert StoreList(LocalBackend(str(tmp_path))).remove([IDS[0], IDS[5]]) == [IDS[0]]
    assert ids(tmp_path) == [IDS[1]], "a whole list counts, whatever the tombstones say"
    for path in files(tmp_path):
        path.unlink()
    assert StoreList(LocalBackend(str(tmp_path))).remove([IDS[0]]) == [IDS[0]]
    assert ids(tmp_path) == []


def test_copies_that_cannot_be_read_are_no_empty_list(tmp_path, monkeypatch):
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0])])
    real = type(tmp_path).read_bytes

    def refused(path):
        if path.name == "withdrawn.jsonl" and path.parent.name != spared:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(type(tmp_path), "read_bytes", refused)
    spared = ".copies"
    assert ids(tmp_path) == IDS[:1]
    spared = None
    with pytest.raises(StorageError, match=r"cannot be read \(Permission denied\)"):
        StoreList(LocalBackend(str(tmp_path))).entries()


@pytest.mark.parametrize(
    "bad", [Withdrawal("x", "", ""), Withdrawal(IDS[0], "\ud800", ""), Withdrawal(IDS[0], "", "soon")]
)
def test_what_cannot_be_added_is_refused_and_nothing_is_left(tmp_path, bad):
    with pytest.raises(InputError):
        StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[1]), bad])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_list_as_it_was(tmp_path, monkeypatch):
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0])])
    before = [path.read_bytes() for path in files(tmp_path)]

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[1])])
    monkeypatch.undo()
    assert [path.read_bytes() for path in files(tmp_path)] == before
    assert StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[1])])


def _add_each(root, identities):
    for identity in identities:
        StoreList(LocalBackend(str(root))).add([entry(identity)])


def test_several_processes_add_and_none_is_lost(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add_each, args=(tmp_path, IDS[n::4])) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert ids(tmp_path) == IDS
    assert StoreList(LocalBackend(str(tmp_path))).repair() == {}


@pytest.mark.parametrize("writes", [0, 1])
def test_a_death_at_any_write_leaves_what_was_listed(tmp_path, writes):
    StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[0])])

    def die():
        done = iter(range(writes))
        real = os.replace
        os.replace = lambda *paths: real(*paths) if next(done, None) is not None else os.kill(os.getpid(), 9)
        StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[1])])

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -9
    assert ids(tmp_path) == IDS[: 1 + writes]
    assert StoreList(LocalBackend(str(tmp_path))).add([entry(IDS[2])]), "the dead one's lock is in nobody's way"
    assert ids(tmp_path) == [*IDS[: 1 + writes], IDS[2]]
    assert files(tmp_path)[0].read_bytes() == files(tmp_path)[1].read_bytes()
