"""Parts of sequences: what is left out loses its loss, and sequences without any go or stay."""

import numpy as np

from influence_assets.corpus.subsets import part_of
from influence_assets.training_tokens import TrainingTokens

WHOLE = TrainingTokens(
    np.arange(12, dtype=np.int32).reshape(3, 4), np.array([4, 3, 4], np.int32), np.ones((3, 4), np.uint8)
)
KEPT = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.bool_)


def test_sequences_without_a_loss_are_left_out():
    part = part_of(WHOLE, KEPT)
    np.testing.assert_array_equal(part.tokens, WHOLE.tokens[[0, 2]])
    np.testing.assert_array_equal(part.loss, [[0, 1, 0, 0], [0, 1, 1, 1]])


def test_they_can_stay_so_that_batches_are_the_same():
    part = part_of(WHOLE, KEPT, keeps_sequences=True)
    np.testing.assert_array_equal(part.tokens, WHOLE.tokens)
    np.testing.assert_array_equal(part.lengths, WHOLE.lengths)
    np.testing.assert_array_equal(part.loss, [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]])


def test_the_whole_is_as_it_was():
    for keeps in (False, True):
        part = part_of(WHOLE._replace(loss=None), np.ones((3, 1), np.bool_), keeps_sequences=keeps)
        assert part.loss is None
        np.testing.assert_array_equal(part.tokens, WHOLE.tokens)
