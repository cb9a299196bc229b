"""The list of withdrawn documents: what it may hold."""

import json
import os

import pytest

from influence_assets.corpus.withdrawn import Withdrawal, read_withdrawn
from influence_assets.errors import InputError

IDS = [f"{n:032x}" for n in range(1, 40)]
NOON = "2025-01-31T12:00:00+00:00"


@pytest.mark.parametrize("name", ["list.txt", "list.jsonl", "list.jsonl.gz"])
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to(os.devnull)])
def test_a_list_that_is_not_a_regular_file_is_refused_without_waiting_for_it(tmp_path, name, put):
    put(tmp_path / name)
    with pytest.raises(InputError, match="is not a regular file") as refused:
        read_withdrawn(tmp_path / name)
    assert refused.value.where == str(tmp_path / name)


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


@pytest.mark.parametrize(
    "name", ["gone.jsonl", "gone.txt", "file/list.jsonl", "folder.jsonl", "link.jsonl", "link.txt"]
)
def test_a_list_that_is_lost_or_cannot_be_read_is_not_empty(tmp_path, name):
    """An unmounted disk must not publish again what the list withdraws."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.jsonl").mkdir()
    for link in ("link.jsonl", "link.txt"):
        (tmp_path / link).symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=name):
        read_withdrawn(tmp_path / name)


def test_an_empty_list_withdraws_nothing(tmp_path):
    for name in ("list.jsonl", "list.txt"):
        (tmp_path / name).touch()
        assert read_withdrawn(tmp_path / name) == []


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


@pytest.mark.parametrize("line", ["x", IDS[0][:31], f"{IDS[0]} {IDS[1]}", IDS[0] + "é", "\ufffd"])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_bytes(f"# ids\n{line}\n".encode())
    with pytest.raises(InputError, match="is not a document_id") as refused:
        read_withdrawn(path)
    assert refused.value.where == f"{path}, row 2"
