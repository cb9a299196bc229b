"""Parts of the sequences that a model was trained on, on which it is trained again.

What is left out loses its loss; sequences stay packed as they are, and those without any loss are left out.
"""

import numpy as np
from numpy.typing import NDArray

from influence_assets.training_tokens import TrainingTokens


def drawn_units(units: int, share: float, *, seed: int, subset: int) -> NDArray[np.bool_]:
    """Return which units are in a random subset, which has `share` of them; each subset has a draw of its own.

    Args:
        units: the number of units.
        share: the share of them in the subset, rounded to a whole number of units.
        seed: seed of all draws.
        subset: the number of the subset.

    Returns:
        bool [unit].
    """
    order = np.random.default_rng([seed, subset]).permutation(units)
    is_drawn = np.zeros(units, np.bool_)
    is_drawn[order[: round(share * units)]] = True
    return is_drawn


def part_of(training: TrainingTokens, is_kept: NDArray[np.bool_], *, keeps_sequences: bool = False) -> TrainingTokens:
    """Return the sequences with the loss of some tokens alone; sequences without any are left out.

    Args:
        training: all sequences.
        is_kept: bool [sequence, token] or [sequence, 1], the tokens whose loss stays.
        keeps_sequences: whether sequences without any loss stay too, so that a training on the part has the batches
            and the schedule of one on the whole.
    """
    carries = np.arange(training.tokens.shape[1]) < training.lengths[:, None]
    carries[:, 0] = False  # nothing comes before it, from which it could be predicted
    if training.loss is not None:
        carries &= training.loss.astype(np.bool_)
    remains = carries & is_kept
    rows = np.arange(len(remains)) if keeps_sequences else np.flatnonzero(remains.any(axis=1))
    is_whole = bool((remains == carries)[rows].all())
    loss = training.loss if is_whole else remains.astype(np.uint8)
    return TrainingTokens(training.tokens[rows], training.lengths[rows], None if loss is None else loss[rows])
