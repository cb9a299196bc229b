"""The list of withdrawn documents: what it may hold, and adding to it without harm."""

import json
import multiprocessing
import os
import stat

import pytest

from influence_assets.corpus import withdrawn
from influence_assets.corpus.withdrawn import Withdrawal, add_withdrawn, read_withdrawn
from influence_assets.errors import InputError

IDS = [f"{n:032x}" for n in range(1, 40)]
NOON = "2025-01-31T12:00:00+00:00"


def test_rows_of_a_jsonl_list(tmp_path):
    path = tmp_path / "list.jsonl"
    rows = [
        {"document_id": IDS[0], "reason": "é", "withdrawn_at": "2025-01-31T13:00:00+01:00", "by": "x"},
        {"document_id": IDS[1], "reason": None},
        {"document_id": IDS[0], "reason": "again"},
        {"document_id": IDS[2], "withdrawn_at": "2025-01-31"},
        {"document_id": IDS[3], "withdrawn_at": "2025-01-31T12:00:00Z"},
    ]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows))
    assert read_withdrawn(path) == [
        Withdrawal(IDS[0], "é", NOON),
        Withdrawal(IDS[1], "", ""),
        Withdrawal(IDS[2], "", "2025-01-31T00:00:00+00:00"),
        Withdrawal(IDS[3], "", NOON),
    ]


def test_lines_of_a_plain_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(f"\ufeff# taken down\r\n{IDS[0]}  # é\r\n\r\n  {IDS[1]}\t\n{IDS[0]}\n#{IDS[2]}".encode())
    assert read_withdrawn(path) == [Withdrawal(IDS[0], "", ""), Withdrawal(IDS[1], "", "")]


def test_a_list_that_is_not_there_is_empty_and_one_that_cannot_be_read_is_not(tmp_path):
    assert read_withdrawn(tmp_path / "list.jsonl") == []
    (tmp_path / "file").touch()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    for name in ("file/list.jsonl", "folder.jsonl", "link.jsonl"):
        with pytest.raises(InputError):
            read_withdrawn(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"not JSON", "is not JSON"),
        (b"{}", "has no `document_id`"),
        (b'{"document_id": 7}', "'7' is not a document_id"),
        (b'{"document_id": "%s"}' % IDS[30].upper().encode(), "is not a document_id"),
        (b'{"document_id": "%s"}' % IDS[0][1:].encode(), "is not a document_id"),
        (b'{"document_id": "%s0"}' % IDS[0].encode(), "is not a document_id"),
        (b'{"document_id": "%s", "reason": 7}' % IDS[0].encode(), "`reason`"),
        (b'{"document_id": "%s", "withdrawn_at": "soon"}' % IDS[0].encode(), "'soon', not a date"),
        (b'{"document_id": "%s", "withdrawn_at": 7}' % IDS[0].encode(), "7, not a date"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, problem):
    path = tmp_path / "list.jsonl"
    path.write_bytes(b'{"document_id": "%s"}\n' % IDS[5].encode() + row)
    with pytest.raises(InputError) as refused:
        read_withdrawn(path)
    assert refused.value.where == f"{path}, row 2"
    assert problem in refused.value.problem
    assert refused.value.remedy.endswith(".")
    with pytest.raises(InputError):
        add_withdrawn(path, [Withdrawal(IDS[0], "", NOON)])


@pytest.mark.parametrize("line", ["x", IDS[0][:31], f"{IDS[0]} {IDS[1]}", IDS[0] + "é", "\ufffd"])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_bytes(f"# ids\n{line}\n".encode())
    with pytest.raises(InputError, match="is not a document_id") as refused:
        read_withdrawn(path)
    assert refused.value.where == f"{path}, row 2"


def test_what_is_there_stays_byte_for_byte(tmp_path):
    path = tmp_path / "list.jsonl"
    before = b'\xef\xbb\xbf{"document_id" :  "%s"}\r\n\n {"document_id": "%s"}' % (IDS[0].encode(), IDS[1].encode())
    path.write_bytes(before)
    path.chmod(0o640)
    new = [Withdrawal(IDS[1], "known", NOON), Withdrawal(IDS[2], "é\n", NOON), Withdrawal(IDS[2], "twice", NOON)]
    assert add_withdrawn(path, new) == [Withdrawal(IDS[2], "é\n", NOON)]
    added = path.read_bytes().removeprefix(before + b"\n")
    assert json.loads(added) == {"document_id": IDS[2], "reason": "é\n", "withdrawn_at": NOON}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    whole = path.read_bytes()
    assert add_withdrawn(path, new) == []
    assert path.read_bytes() == whole


def test_a_new_list_and_a_linked_one(tmp_path):
    path = tmp_path / "deep" / "list.jsonl"
    assert add_withdrawn(path, [Withdrawal(IDS[0], "r", "2025-01-31T12:00:00")]) == [Withdrawal(IDS[0], "r", NOON)]
    assert read_withdrawn(path) == [Withdrawal(IDS[0], "r", NOON)]
    (tmp_path / "link.jsonl").symlink_to(path)
    add_withdrawn(tmp_path / "link.jsonl", [Withdrawal(IDS[1], "", "")])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert [one.document_id for one in read_withdrawn(path)] == IDS[:2]
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith(".")] == ["list.jsonl"]


@pytest.mark.parametrize(
    ("name", "withdrawal"),
    [
        ("list.txt", Withdrawal(IDS[0], "", "")),
        ("list.jsonl", Withdrawal("x", "", "")),
        ("list.jsonl", Withdrawal(IDS[0], "\ud800", "")),
        ("list.jsonl", Withdrawal(IDS[0], "", "soon")),
        ("file/list.jsonl", Withdrawal(IDS[0], "", "")),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_left(tmp_path, name, withdrawal):
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        add_withdrawn(tmp_path / name, [withdrawal])
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_list_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "list.jsonl"
    add_withdrawn(path, [Withdrawal(IDS[0], "", "")])
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(withdrawn.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        add_withdrawn(path, [Withdrawal(IDS[1], "", "")])
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.partial"))
    assert add_withdrawn(path, [Withdrawal(IDS[1], "", "")])


def _add_each(path, identities):
    for identity in identities:
        add_withdrawn(path, [Withdrawal(identity, "", "")])


def test_several_processes_add_and_none_is_lost(tmp_path):
    path = tmp_path / "list.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add_each, args=(path, IDS[n::4])) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(one.document_id for one in read_withdrawn(path)) == IDS


def test_a_death_before_the_new_list_stands_leaves_the_old_one(tmp_path):
    path = tmp_path / "list.jsonl"
    add_withdrawn(path, [Withdrawal(IDS[0], "", "")])

    def die():
        withdrawn.os.fsync = lambda _: os.kill(os.getpid(), 9)
        add_withdrawn(path, [Withdrawal(IDS[1], "", "")])

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -9
    assert [one.document_id for one in read_withdrawn(path)] == IDS[:1]
    assert add_withdrawn(path, [Withdrawal(IDS[2], "", "")]), "the dead one's lock and partial file are in nobody's way"
    assert [one.document_id for one in read_withdrawn(path)] == [IDS[0], IDS[2]]
