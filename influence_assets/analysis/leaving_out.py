"""How far log-probabilities fall without a group of the training text, measured by leaving it out.

Training is random: models of two seeds differ by more than most groups change. Either the seeds' means are compared
(leave-one-out), or models of the same seed, whose initial weights and order of sequences are the same, so that what
chance adds to both is subtracted (training-stochasticity-aware leave-one-out, which asks about *this* run rather than
about training in general).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Change(NamedTuple):
    """How much higher log-probabilities are with a group than without it.

    Args:
        mean: in nats, the mean over seeds; positive helps.
        standard_errors: of the mean; NaN with a single seed.
    """

    mean: Float[np.ndarray, " query"]
    standard_errors: Float[np.ndarray, " query"]


def leave_one_out(
    everything: Float[np.ndarray, "seed query"], without: Float[np.ndarray, "seed_without query"]
) -> Change:
    """Return the difference of the seeds' means, with the error of independent samples: s² = s_a²/k_a + s_w²/k_w.

    Args:
        everything: log-probabilities under models of the whole corpus.
        without: those under models without the group, of as many or as few seeds.
    """
    variance = sum(_variance(each) / len(each) for each in (everything, without))
    return Change(everything.mean(0) - without.mean(0), np.sqrt(variance))


def paired_leave_one_out(
    everything: Float[np.ndarray, "seed query"], without: Float[np.ndarray, "seed query"]
) -> Change:
    """Return the mean of the seeds' own differences, each between models of the same seed and order.

    Args:
        everything: log-probabilities under models of the whole corpus.
        without: those under models without the group, of the same seeds in the same order.
    """
    differences = everything - without
    return Change(differences.mean(0), np.sqrt(_variance(differences) / len(differences)))


def _variance(samples: Float[np.ndarray, "seed query"]) -> Float[np.ndarray, " query"]:
    """Return the unbiased variance over seeds; NaN with a single one."""
    if len(samples) < 2:  # a spread takes two
        return np.full(samples.shape[1:], np.nan)
    variance: np.ndarray = samples.var(0, ddof=1)
    return variance
