"""Two commits beside each other: the arithmetic of the interval, the order of jobs, and one run against itself."""

import json
import math
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.against import LIMIT, Ratio, ratio
from benchmarks.cases import EARLIER, SIZES

ROOT = Path(__file__).resolve().parents[2]


def test_the_interval_is_students_t_of_the_logarithms_of_paired_ratios():
    found = ratio([2 * math.exp(0.1), 3.0, 5 * math.exp(-0.1)], [2.0, 3.0, 5.0])
    margin = 4.302653 * 0.1 / math.sqrt(3)  # of two degrees of freedom, from a table
    assert found.median == pytest.approx(1)
    assert found.interval == pytest.approx((math.exp(-margin), math.exp(margin)), rel=1e-6)


def test_of_equal_ratios_nothing_is_uncertain_and_of_one_everything():
    low, high = ratio([2.0, 4.0], [1.0, 2.0]).interval
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)
    assert ratio([2.0], [1.0]) == Ratio(2.0, None)


@pytest.mark.parametrize(
    ("interval", "said"),
    [((0.9, 1.04), "yes, it is below"), ((0.9, 1.06), "no"), ((1.06, 1.2), "yes, it is above"), (None, "unknown")],
)
def test_an_interval_excludes_the_limit_or_does_not(interval, said):
    assert LIMIT == 1.05
    assert Ratio(1.0, interval).excludes_limit == said


def test_both_commits_run_every_stage_as_often_and_take_turns_in_going_first():
    asked = bench.parsed(["--subjects", "ours", "--repetitions", "3", "--no-variants", "--against", str(ROOT)])
    size = bench.sized(SIZES["tiny"], asked)
    pairs = {
        place: [key.subject for _, key in jobs]
        for place, jobs in groupby(bench.jobs(size, asked), lambda job: (job[0], job[1].stage))
    }
    assert pairs == {
        (repetition, stage): [EARLIER, "ours"] if repetition % 2 else ["ours", EARLIER]
        for repetition in range(3)
        for stage in size.stages()
    }


@pytest.mark.soak
def test_another_checkout_is_measured_and_compared(tmp_path):
    options = ["--sizes", "tiny", "--subjects", "ours", "--repetitions", "2", "--threads", "1", "--no-variants"]
    command = [sys.executable, "-m", "benchmarks.bench", *options, "--against", str(ROOT), "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    stages = json.loads((tmp_path / "against.json").read_text())["stages"]
    assert [row["stage"] for row in stages] == list(SIZES["tiny"].stages())
    for row in stages:
        assert len(row["ours"]) == len(row["earlier"]) == 2
        scored = "scores" in row["stage"] or row["stage"] == "total"
        assert (row["agreement"] is not None) == scored
        assert not scored or row["agreement"]["pearson"] > 0.999
    assert {row["subject"] for row in json.loads((tmp_path / "results.json").read_text())} == {"ours"}
