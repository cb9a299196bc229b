"""The tokens that a model is trained on, as the corpus's packing and the training itself both know them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TrainingTokens(NamedTuple):
    """The sequences that a model was trained on.

    Args:
        tokens: int32 [sequence, token], padded on the right.
        lengths: int32 [sequence].
        loss: uint8 [sequence, token], 1 where a token carries a loss; None means that all do.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    loss: NDArray[np.uint8] | None
