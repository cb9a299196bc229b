"""The sketches' encoding against a plain loop, and what its scale promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence_assets.capture import sign_codes
from influence_assets.capture.sign_codes import encode, estimate


def gradients(sequences: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((sequences, width)).astype(np.float32)


@given(sequences=st.integers(0, 9), width=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_estimates_are_sums_of_signed_coordinates_times_the_scale(sequences, width, seed):
    rows, questions = gradients(sequences, width, seed), gradients(3, width, seed + 1)
    norms = (rows.astype(np.float64) ** 2).sum(1) * 1.7
    found = estimate(questions, encode(rows, norms))
    for s in range(sequences):
        scale = norms[s] / np.abs(rows[s]).sum()
        for q in range(3):
            expected = sum(float(questions[q, i]) * (1 if rows[s, i] > 0 else -1) for i in range(width)) * scale
            assert found[q, s] == pytest.approx(expected, rel=1e-4, abs=1e-4 * scale)


def test_a_gradients_product_with_itself_is_exact():
    rows = gradients(5, 100)
    norms = (rows.astype(np.float64) ** 2).sum(1)
    np.testing.assert_allclose(np.diag(estimate(rows, encode(rows, norms))), norms, rtol=1e-5)


def test_blocks_change_nothing(monkeypatch):
    rows, questions = gradients(10, 33), gradients(2, 33, 1)
    codes = encode(rows, np.ones(10))
    whole = estimate(questions, codes)
    monkeypatch.setattr(sign_codes, "NUMBERS_AT_ONCE", 3 * 33)
    np.testing.assert_allclose(estimate(questions, codes), whole, atol=1e-5 * np.abs(whole).max())


def test_a_sequence_without_any_gradient_is_estimated_as_nothing():
    codes = encode(np.zeros((1, 12), np.float32), np.zeros(1))
    assert estimate(gradients(2, 12), codes).tolist() == [[0], [0]]
