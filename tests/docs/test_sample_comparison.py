"""What counts as a difference between a sample in the pages and the one that is made today."""

import pytest
from sample_comparison import differences

TABLE = """\
asset        seconds  rows
covariances      1.2     3
eigenbases       0.5     4
2 rows"""


@pytest.mark.parametrize(
    ("shown", "made"),
    [
        ("Computed 13 partitions in 37.4 s.", "Computed 13 partitions in 4 s."),
        ("Removed 9 artifacts: 1,434,294 bytes.", "Removed 9 artifacts: 1,434,301 bytes."),
        ("lamp  18.894", "lamp  18.91"),
        ("drift 0.001", "drift 0.004"),
        ("0.36 s  95 ms  230 MB  10.3 kB", "1 s  0.1 s  1.2 GB  10.1 kB"),
        ("covariances @ a4b794d00bce53f25385fdce18d9e0a7", "covariances @ 3b661215502af51dce241b7e84fae245"),
        ("at 2026-11-24 01:42:30+00:00", "at 2027-01-02 11:00:00+00:00"),
        ("score  1\nlamp   2.01", "score  1\nlamp   1.99"),
        (TABLE, TABLE.replace("1.2", "9.9")),
        ("18 of 1,494 estimates stand above it, over 1.28 nats", "1 of 1,494 estimates stand above it, over 1.3 nats"),
    ],
)
def test_what_differs_between_machines_is_no_difference(shown, made):
    assert differences(shown, made) == []


@pytest.mark.parametrize(
    ("shown", "made"),
    [
        ("Computed 13 partitions in 4 s.", "Computed 12 partitions in 4 s."),
        ("code_version  1", "code_version  2"),
        ("lamp  18.894", "lamp  -18.894"),
        ("lamp  18.894", "lamp  12.1"),
        ("lamp  18.894", "baker  18.894"),
        ("1 row", "2 rows"),
        ("18 of 1,494 estimates stand above it", "18 of 1,495 estimates stand above it"),
        ("one line", "one line\nanother"),
        ("depth  asset", "depth  asset  partition"),
        ("$ influence gc --keep 1", "$ influence gc --keep 0"),
        ("$ influence forget --document a4b794d00bce53f2", "$ influence forget --document 3b661215502af51d"),
        (TABLE, TABLE.replace("     3", "     5")),
    ],
)  # fmt: skip
def test_what_is_stale_is_a_difference(shown, made):
    assert differences(shown, made)


def test_the_words_of_a_table_that_follows_are_compared():
    """The columns of the first table are as wide as its figures, which differ from run to run."""
    follows = "layers  rotated for scores"
    shown = f"stage    bytes\nscores      12\n{follows}"
    made = f"stage   bytes\nscores     13\n{follows}"
    assert differences(shown, made) == []
    assert differences(shown, made.replace("rotated", "turned")) == [
        f"shown: {follows}\nmade:  layers  turned for scores"
    ]
