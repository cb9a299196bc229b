"""What is printed beside the passages of an answer."""

import io

import pytest
from rich.console import Console

from influence_assets.analysis.noise import Noise
from influence_assets.api.answer import Answer, Passage
from influence_assets.cli.passages import print_answer


def printed(*scores, noise=None, is_estimated=False):
    passages = [
        Passage(score, None, "a.jsonl", place, place, "text", "", "", [], True, None)
        for place, score in enumerate(scores)
    ]
    answer = Answer("The lamp", " turns", -50.0, 1, passages, 2000, noise=noise, is_estimated=is_estimated)
    console = Console(file=io.StringIO(), width=100)
    print_answer(answer, "scored", console, full=False)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("noise", "is_estimated", "line"),
    [
        (Noise(2000, 0.1, 1.0, 4.0, 2), False, "Noise: 2 of 2,000 scores stand above it, over 4 nats;"),
        (Noise(2000, 0.1, 1.0, 4.0, 1), True, "Noise: 1 of 2,000 estimates stands above it, over 4 nats;"),
        (Noise(2000, 0.1, 1.0, 4.0, 0), False, "Noise: 0 of 2,000 scores stand above it, over 4 nats;"),
        (Noise(17, 0.1, None, None, None), False, "Noise: not known from 17 scores, fewer than 20;"),
    ],
)
def test_the_noise_is_one_line(noise, is_estimated, line):
    (found,) = [part for part in printed(7.0, noise=noise, is_estimated=is_estimated).splitlines() if "Noise" in part]
    assert found.startswith(line)
    assert found.endswith("can be chance.")


def test_without_a_catalogue_of_this_release_there_is_no_line():
    assert "Noise" not in printed(7.0)


def test_passages_within_the_noise_are_marked():
    shown = printed(7.0, 4.0, 0.5, noise=Noise(2000, 0.1, 1.0, 4.0, 1))
    assert "1. +7 nats · " in shown
    assert "2. +4 nats (within the noise) · " in shown
    assert "3. +0.5 nats (within the noise) · " in shown
    assert "within" not in printed(7.0, 0.5, noise=Noise(17, 0.1, None, None, None))


def test_negative_scores_come_with_a_warning():
    assert "Negative scores are poor evidence" in printed(7.0, -0.5)
    assert "Negative" not in printed(7.0, 0.0)
