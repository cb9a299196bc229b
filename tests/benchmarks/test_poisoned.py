"""The figures of damaged documents, worked out by hand, and that damage is what it says."""

import random

import numpy as np
import polars as pl
import pytest

from benchmarks import poisoned
from influence_assets.demo.files import write_rows


def test_auc_is_how_often_the_damaged_one_comes_first():
    assert poisoned.auc(np.array([3.0, 1.0]), np.array([2.0, 0.0])) == 3 / 4
    assert poisoned.auc(np.array([1.0]), np.array([1.0])) == 1 / 2


def test_what_is_found_is_the_share_among_the_tenth_that_is_read_first():
    kinds = list(poisoned.DAMAGE)
    documents = pl.DataFrame(
        {
            "damage": [*kinds, *["none"] * 36],
            "nats_per_token": [99.0, 98.0, 1.5, 0.5, *map(float, range(2, 38))],
            "self_influence_nats": [0.0] * 40,
            "loss_per_token": [float(n) for n in range(40, 0, -1)],
            "tokens": list(range(40)),
        }
    )
    found = {(row["order"], row["damage"]): (row["auc"], row["found"]) for row in poisoned.figures(documents)}
    assert found["nats_per_token", kinds[0]] == (1.0, 1.0)
    assert found["nats_per_token", "all"] == (0.5, 0.5)
    assert found["self_influence_nats", "all"][0] == 0.5
    assert found["loss_per_token", "all"] == (1.0, 1.0)
    assert found["tokens", "all"] == (0.0, 0.0)


@pytest.mark.parametrize("kind", poisoned.DAMAGE)
def test_a_damaged_text_is_another_one(kind):
    text = "A cat sat on the mat. It slept there for hours. Nobody came by. The sun went down."
    damaged = poisoned.DAMAGE[kind](text, "Ships pass. Gulls cry. Bells ring.", random.Random(1))
    assert damaged != text
    if kind == "words shuffled":
        assert sorted(damaged.split(" ")) == sorted(text.split(" "))
    if kind == "letters replaced":
        assert [len(word) for word in damaged.split(" ")] == [len(word) for word in text.split(" ")]


def test_a_twentieth_of_the_documents_is_damaged_and_the_same_ones_each_time(tmp_path):
    rows = [{"text": f"Number {number} has some words of its own. Then it ends."} for number in range(80)]
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "all.jsonl", rows)
        poisoned.damage(tmp_path / name, seed=3)
        made.append((tmp_path / name / "all.jsonl").read_text(encoding="utf-8"))
    assert made[0] == made[1]
    assert made[0].count('"damage"') == 4
