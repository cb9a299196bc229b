"""Every sample in the pages is what its command prints today."""

import tempfile
from pathlib import Path

import pytest
from sample_comparison import differences

from docs import samples
from docs.blocks import ROOT, blocks
from docs.terminal import text_of

DEMO = ROOT / "demo/study.yaml"


@pytest.mark.slow
def test_the_samples_of_the_example_are_those_of_today():
    with tempfile.TemporaryDirectory(prefix="influence-samples-") as folder:  # as short as where they are made
        made = samples.example_samples(Path(folder).resolve())
    shown = blocks("sample")
    stale = {name: differences(shown[name], made[name]) for name in made.keys() & shown.keys()}
    assert {name: lines for name, lines in stale.items() if lines} == {}, "make them anew: make samples"


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.exists(), reason="`make demo` has not run here")
def test_the_samples_of_the_demo_are_those_of_today(tmp_path):
    made = samples.demo_samples(DEMO)
    shown = blocks("sample")
    assert {name: differences(shown[name], made[name]) for name in made} == {name: [] for name in made}
    picture = tmp_path / "answer.svg"
    picture.write_text(samples.demo_answer(DEMO), encoding="utf-8")
    assert differences(text_of(samples.PICTURE), text_of(picture)) == []
