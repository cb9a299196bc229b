"""The draw of the sequences that the curvature is fitted on."""

import numpy as np
import pytest

from influence_assets.assets.fitted_pass import share_to_fit
from influence_assets.capture.batches import Sequences
from influence_assets.layouts.model import fit_sequences
from influence_assets.study import Study
from tests import studies

KEYS = np.random.default_rng(3).integers(2**62, 2**63 - 1, 400)


def drawn(keys, *, seed, share=0.1):
    tokens = np.zeros((len(keys), 2), np.int32)
    sequences = Sequences(tokens, np.full(len(keys), 2, np.int32), keys)
    return fit_sequences(sequences, share, seed).keys.tolist()


@pytest.mark.filterwarnings("error")
def test_the_draw_depends_on_seed_and_sequences_alone():
    first = drawn(KEYS, seed=0)
    assert 20 < len(set(first)) < 60
    assert first == [key for key in KEYS.tolist() if key in set(first)], "the order of the shard is kept"
    assert set(drawn(KEYS[::-1].copy(), seed=0)) == set(first)
    # Two draws of 40 out of 400 have 4 in common on average, and hardly ever 20.
    assert len(set(drawn(KEYS, seed=1)) & set(first)) < 20


def test_neighbouring_keys_are_drawn_apart():
    """Keys have 63 bits: none of them may be lost on the way to the generator."""
    keys = KEYS[0] // 4096 * 4096 + np.arange(400)
    assert drawn(keys, seed=0) != drawn(keys, seed=1)
    assert np.std(np.diff([key - keys[0] for key in drawn(keys, seed=0)])) > 1


def test_all_are_taken_where_there_are_no_more():
    assert drawn(KEYS, seed=0, share=1.0) == KEYS.tolist()


@pytest.mark.parametrize(
    ("fit_sequences", "sequences", "share"),
    [(None, 10**7, 1.0), ("auto", 99_000, 1.0), ("auto", 400_000, 0.25), (100, 50, 1.0), (100, 400, 0.25), (1, 0, 1.0)],
)
def test_a_generation_is_fitted_on_as_many_as_the_study_says(tmp_path, fit_sequences, sequences, share):
    study = Study.load(studies.write_study(tmp_path, curvature={"fit_sequences": fit_sequences}))
    assert share_to_fit(study, sequences) == share
