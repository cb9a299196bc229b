"""Tombstones: kept twice, and what is left of them where both copies are damaged."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from influence_assets.corpus.withdrawn import Withdrawal
from influence_assets.engine.tombstones import TOMBSTONE_SCHEMA, VANISHED, Tombstones
from influence_assets.storage.backends.local import LocalBackend

IDS = [f"{n:032x}" for n in range(1, 9)]
NOON = datetime(2025, 1, 31, 12, tzinfo=UTC)
ROWS = [
    ("a", IDS[0], "by letter", NOON, "store"),
    ("a", IDS[1], "r", NOON, "study"),
    ("b", IDS[2], VANISHED, NOON, None),
]


def frame(rows):
    return pl.DataFrame(rows, schema=TOMBSTONE_SCHEMA, orient="row")


def files(root):
    return [root / "tombstones.jsonl", root / ".copies" / "tombstones.jsonl"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_copy_is_mended_from_the_other(tmp_path, which):
    tombstones = Tombstones(LocalBackend(str(tmp_path)))
    tombstones.store(frame(ROWS))
    assert tombstones.stored().equals(frame(ROWS))
    before = files(tmp_path)[0].read_bytes()
    for damage in (bytes(40), before[:-30], before.partition(b"\n")[2], None):
        files(tmp_path)[which].unlink()
        if damage is not None:
            files(tmp_path)[which].write_bytes(damage)
        assert tombstones.stored().equals(frame(ROWS))
        assert list(tombstones.repair()) == [files(tmp_path)[which]]
        assert [path.read_bytes() for path in files(tmp_path)] == [before, before]


def test_of_two_damaged_copies_is_left_what_can_be_read(tmp_path):
    tombstones = Tombstones(LocalBackend(str(tmp_path)))
    tombstones.store(frame(ROWS))
    for path, line in zip(files(tmp_path), (1, 2), strict=True):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:line], '{"shard_id": 7}\n', "}{\n", *lines[line + 1 :]]))
    assert tombstones.stored().sort("document_id").equals(frame(ROWS))
    assert set(tombstones.repair()) == set(files(tmp_path))
    assert tombstones.repair() == {}


def test_tombstones_of_old_are_read(tmp_path):
    rows = [dict(zip(("shard_id", "document_id", "reason"), row[:3], strict=True)) for row in ROWS]
    stored = [row | {"removed_at": "2025-01-31T12:00:00.000000+00:00"} for row in rows]
    files(tmp_path)[0].write_text("".join(json.dumps(row) + "\n" for row in stored))
    assert Tombstones(LocalBackend(str(tmp_path))).repair() == {}
    assert Tombstones(LocalBackend(str(tmp_path))).stored().drop("listed_by").equals(frame(ROWS).drop("listed_by"))
    assert set(Tombstones(LocalBackend(str(tmp_path))).withdrawn()) == {IDS[0], IDS[1]}, "nobody knows by which list"


def test_which_list_withdrew_a_document_is_kept_up_to_date(tmp_path):
    tombstones = Tombstones(LocalBackend(str(tmp_path)))
    tombstones.store(frame(ROWS))
    assert tombstones.withdrawn() == {IDS[0]: Withdrawal(IDS[0], "by letter", NOON.isoformat())}
    withdrawals = {"a": [Withdrawal(IDS[1], "again", "")], "c": [Withdrawal(IDS[3], "r", NOON.isoformat())]}
    wanted = tombstones.wanted(withdrawals, {"d": [IDS[4]]}, {"a", "c"}, {IDS[1]: "store", IDS[3]: "study"})
    assert wanted.select("shard_id", "document_id", "reason", "listed_by").rows() == [
        ("a", IDS[1], "r", "store"),
        ("b", IDS[2], VANISHED, None),
        ("c", IDS[3], "r", "study"),
        ("d", IDS[4], VANISHED, None),
    ]
