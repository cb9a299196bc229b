"""The harness at its tiny size, and the tables that are made of its rows. No timing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kronfluence", reason="the peer is installed by `make test`")

from benchmarks import report
from benchmarks.cases import SIZES
from benchmarks.limits import lines
from benchmarks.rows import Row

pytestmark = pytest.mark.peer
ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    "size": str, "stage": str, "subject": str, "cpu_seconds_median": float, "wall_seconds_median": float,
    "peak_memory_bytes": int, "device": str, "bytes_on_disk": int, "repetitions": int, "spread": dict,
    "sequences": int, "queries": int, "batch": int, "dtype": str, "threads": int, "versions": dict,
}  # fmt: skip


@pytest.mark.soak
def test_the_harness_measures_compares_and_reports(tmp_path):
    """One test, because the run that all of it is about takes long."""
    rows = measured(tmp_path / "bench")
    every_stage_of_every_subject_has_a_row(rows)
    what_is_compared_agrees(rows)
    nothing_is_called_faster_that_does_not_agree(rows)
    tables_and_plot_come_from_the_rows(rows, tmp_path)


def measured(out: Path) -> list[Row]:
    # A process of its own: Python has one server of forks for a process, and other tests want theirs.
    options = ["--sizes", "tiny", "--repetitions", "1", "--threads", "1", "--no-variants", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "benchmarks.bench", *options], cwd=ROOT, check=True)
    found: list[Row] = json.loads((out / "results.json").read_text())
    return found


def every_stage_of_every_subject_has_a_row(rows):
    stages = SIZES["tiny"].stages()
    measured = {(row["subject"], row["stage"]) for row in rows}
    assert measured == {("training_step", "training_step")} | {("ours", stage) for stage in stages} | {
        ("kronfluence", stage) for stage in stages if stage != "sketches"
    }
    for row in rows:
        for field, kind in FIELDS.items():
            assert isinstance(row[field], kind), field


def what_is_compared_agrees(rows):
    ours = {row["stage"]: row["agreement"] for row in rows if row["subject"] == "ours"}
    estimate = ours.pop("second_scores_32")
    assert ours.pop("sketches") is None
    assert min(ours.values()) > 0.999
    assert 0.5 < estimate < 1


def nothing_is_called_faster_that_does_not_agree(rows):
    row = next(row for row in rows if (row["subject"], row["stage"]) == ("ours", "scores_32"))
    against = row["peers"][0]
    differing = row | {"agreement": 0.5, "peers": [against | {"scores_agree": False}]}
    assert "times faster" in "\n".join(lines([row]))
    assert "times faster" not in "\n".join(lines([differing]))
    assert f"{against['whole']['median']:.3g}" not in report.ratio(differing, differing["peers"][0], "whole")


def tables_and_plot_come_from_the_rows(rows, tmp_path):
    results, readme, page = (tmp_path / name for name in ("results.json", "README.md", "benchmarks.md"))
    results.write_text(json.dumps(rows))
    for file, (begin, end) in ((readme, report.FIGURES), (page, report.SPEED)):
        file.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    report.main(["--results", str(results), "--readme", str(readme), "--page", str(page)])
    for file in (readme, page):
        text = file.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
    assert readme.read_text().count("| 32 more queries, from sketches |") == 1
    text = page.read_text()
    # One line for each of ours, one more for the second query batch of kronfluence's.
    assert (
        text.count("| tiny |")
        == len([row for row in rows if row["subject"] == "ours" and row["stage"] != "sketches"]) + 1
    )
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
