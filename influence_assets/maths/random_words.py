"""Random 64-bit words from integer arithmetic that is written out here, never from a library's generator.

What is drawn from them is stored in statistics that are computed years apart, by other versions and on other devices,
and must still add up.
"""

import torch
from jaxtyping import Int
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""SplitMix64's constants (Steele et al. 2014) as signed words; torch's int64 wraps around."""


def random_words(stream: int, numbers: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Return a random signed word for each number of a stream.

    Args:
        stream: which of the streams, a signed 64-bit integer.
        numbers: places in the stream.
    """
    return _mixed(_mixed(torch.tensor(stream)) + numbers * _GOLDEN)


def shifted(z: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """Shift right and fill with zeros; torch's own shift fills with the sign."""
    return torch.bitwise_and(torch.bitwise_right_shift(z, bits), (1 << (64 - bits)) - 1)


def _mixed(z: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Return SplitMix64's output function of each word."""
    z = (z ^ shifted(z, 30)) * _FIRST
    z = (z ^ shifted(z, 27)) * _SECOND
    return z ^ shifted(z, 31)
