"""`influence plan`: one row a stage, estimates before and figures after."""

import re

import pytest

from influence_assets.assets import asset_graph
from influence_assets.cli.figures import duration, size
from tests import studies
from tests.commanding import influence


def rows(text):
    """Each stage's row, cut into words."""
    return {line.split()[0]: line for line in text.splitlines() if line.split() and line.split()[0] in NAMES}


NAMES = [step.name for step in asset_graph() if studies.is_due(step)]


def test_before_anything_runs(tmp_path):
    study = studies.lay_out(tmp_path)
    ended = influence("plan", "--study", study)
    assert (ended.code, ended.err) == (0, "")
    assert list(rows(ended.out)) == NAMES
    assert "about 30 sequences of 16 tokens (at 4.0 bytes a token); 3 queries" in ended.out
    assert re.search(
        r"^covariances +1 of 1 +[\d.]+ M +> [\d.]+ m?s +[\d.]+ [MG]B +[\d.]+ kB +│ *$", ended.out, re.MULTILINE
    )
    assert re.search(r"^documents +2 of 2 +– +– +– +– +│ *$", ended.out, re.MULTILINE)
    assert re.search(r"^2 +32 × 9 +gradients by Q_S, tokens by Q_A +queries *$", ended.out, re.MULTILINE)
    assert "a lower limit" in ended.out
    assert not any((tmp_path / "store").glob("covariances")), "nothing is computed"


def test_of_a_study_that_stands(first_run):
    ended = influence("plan", "--study", first_run[0])
    assert (ended.code, ended.err) == (0, "")
    for name, line in rows(ended.out).items():
        assert re.search(r"0 of \d +│ +[\d.]+ m?s +[\d.]+ m?s +[\d.]+ [MG]B +[\d.]+ k?B *$", line), name
    assert "; 17 sequences of 16 tokens; 3 queries; " in ended.out
    assert "Everything is up to date" in ended.out


def test_of_a_new_shard(study):
    studies.write_extra(study)
    ended = influence("plan", "--study", study)
    assert ended.code == 0
    figures = rows(ended.out)
    assert re.search(
        r"1 of 3 +[\d.]+ k +[\d.]+ m?s +[\d.]+ [MG]B +[\d.]+ k?B +│ +[\d.]+ m?s", figures["gradient_sketches"]
    )
    assert re.search(r"0 of 1 +│", figures["eigenbases"])
    assert "about 18 sequences" in ended.out
    assert "One pass of the model computes all that is outstanding of a shard" in ended.out


def test_a_pattern_that_matches_nothing_is_told_at_once(tmp_path):
    ended = influence("plan", "--study", studies.lay_out(tmp_path, curvature={"modules": ["*.nothing"]}))
    assert ended.code == 1
    assert "'*.nothing' matches no linear layer" in ended.error


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0594, "59 ms"), (0.0994, "99 ms"), (0.0996, "0.1 s"), (2.345, "2.3 s"), (9.96, "10 s"), (99.4, "99 s"),
        (150, "2 min"), (6000, "1.7 h"),
    ],
)  # fmt: skip
def test_durations_are_shown_as_people_write_them(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (1490, "1.49 kB"), (999_700_000, "1 GB")]
)
def test_sizes_are_shown_as_people_write_them(count, shown):
    assert size(count) == shown
