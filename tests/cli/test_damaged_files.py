"""Damage in the marker, in Dagster's databases and in the DuckDB file: found by `verify`, mended or told by `run`."""

import os
import sqlite3

import pytest

from tests import studies
from tests.commanding import influence
from tests.tiers import slow_but, slow_rows_but

MARKER = "influence_store.json"


def flipped(path, place):
    content = bytearray(path.read_bytes())
    start = int((len(content) - 1) * place)
    content[start : start + 64] = bytes(byte ^ 0xFF for byte in content[start : start + 64])
    path.write_bytes(content)


DAMAGED_MARKERS = {
    "nothing": b"",
    "zeros": bytes(64),
    "another study": b'{"format_version": 4, "study": "other"}',
    "no number": b'{"format_version": [], "study": "tiny"}',
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "command"),
    slow_rows_but(
        of=[(damage, command) for damage in DAMAGED_MARKERS for command in ("verify", "run")],
        slow=[("no number", "verify"), ("another study", "run")],
    ),
)
def test_a_damaged_marker_is_told_and_written_again(study, damage, command):
    marker = study.parent / "store" / MARKER
    whole = marker.read_bytes()
    marker.write_bytes(DAMAGED_MARKERS[damage])
    ended = influence(command, "--study", study)
    assert (ended.code, ended.err) == (1 if command == "verify" else 0, "")
    assert "It was written again, because the artifacts show whose store it is." in ended.out
    assert marker.read_bytes() == whole
    assert influence("verify", "--study", study).code == 0
    assert influence("run", "--study", study).out.startswith("Nothing to do")


def databases(study):
    return sorted((study.parent / "store" / ".dagster").rglob("*.db"))


@pytest.mark.slow
def test_a_damaged_page_of_any_database_of_dagster_is_found_whether_or_not_a_run_reads_it(study):
    home = study.parent / "store" / ".dagster"
    found = 0
    for path in databases(study):
        whole, pages = path.read_bytes(), path.stat().st_size // 4096
        if pages < 2:
            continue
        page = 4096 * (pages // 2)
        path.write_bytes(whole[:page] + os.urandom(4096) + whole[page + 4096 :])
        with sqlite3.connect(path) as connection:
            try:
                is_damaged = connection.execute("pragma integrity_check").fetchall() != [("ok",)]
            except sqlite3.DatabaseError:
                is_damaged = True
        connection.close()
        found += is_damaged
        verified, ended = influence("verify", "--study", study), influence("run", "--study", study)
        assert (f"Damaged the history of runs: {path.name}" in verified.out or str(path) in verified.out) == is_damaged
        if is_damaged:
            assert f"Move {home} aside and run again" in verified.out
            assert verified.code == 1
        of_one_run = path.parent.name == "runs" and path.name != "index.db"
        if is_damaged and of_one_run:  # shown on that run's page alone
            assert ended.code == 0
        elif is_damaged:
            assert ended.code == 1
            assert "Nothing to do" not in ended.out
            assert f"Error {home}: Dagster cannot use what it keeps there" in ended.error
            assert "Move this folder aside and run again" in ended.error
        path.write_bytes(whole)
    assert found > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", slow_but(of=["header", "middle", "cut off", "empty", "unnoticed"], slow=("middle", "cut off"))
)
def test_a_damaged_catalogue_is_found_and_built_again_by_a_run(study, damage):
    good, path = studies.catalogue_rows(study), study.parent / "store" / "influence.duckdb"
    stat = path.stat()
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[: stat.st_size // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        content = path.read_bytes()
        place = {"header": 0.0, "middle": 0.4, "unnoticed": (content.index(b"The lamp turns") - 8) / len(content)}
        flipped(path, place[damage])
    if damage == "unnoticed":  # as of a disk: no write that anybody could see
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    told = influence("status", "--study", study)
    assert "Traceback" not in told.out + told.err
    verified = influence("verify", "--study", study)
    assert verified.code == 1, verified.out
    assert "Damaged the catalogue" in verified.out
    assert "`influence run` builds it again" in verified.out
    ended = influence("run", "--study", study)
    assert (ended.code, ended.err) == (0, ""), ended.out
    assert "Nothing to do" not in ended.out or "built again" in ended.out
    assert studies.catalogue_rows(study) == good
    assert influence("verify", "--study", study).code == 0
