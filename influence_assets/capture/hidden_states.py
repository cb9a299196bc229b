"""The last hidden states of a model, as they go into its head, at the positions that predict a token with a loss."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from influence_assets.capture.batches import Sequences
from influence_assets.capture.hooks import inputs_of_head
from influence_assets.capture.runner import Progress, Runner
from influence_assets.errors import InputError
from influence_assets.maths.notation import accumulation_dtype

TOKENS_AT_ONCE = 2048


class States(NamedTuple):
    """Some hidden states.

    Args:
        states: in float32, or in float64 if the model is.
        sequences: the row in `Sequences` of each.
        positions: the position of each: its state predicts the token after that.
    """

    states: Float[Tensor, "token width"]
    sequences: NDArray[np.int32]
    positions: NDArray[np.int32]


def hidden_states(
    model: PreTrainedModel, sequences: Sequences, progress: Progress = lambda _count: None
) -> Iterator[States]:
    """Yield the states of all counted positions, batch by batch, each once.

    Args:
        model: any causal language model with a head.
        sequences: the sequences.
        progress: called with the number of sequences of every batch that is done.

    Raises:
        InputError: the model has no head whose inputs belong to the positions one by one.
        FloatingPointError: a state is not finite.
    """
    head = _head(model)
    size = max(1, TOKENS_AT_ONCE // max(1, int(sequences.lengths.max(initial=1))))
    for batch in Runner(model, (), size).batches(sequences, by_length=True):
        with inputs_of_head(head) as seen, torch.no_grad():
            model(input_ids=batch.tokens, use_cache=False)
        if len(seen) != 1 or seen[0].shape[:2] != batch.tokens.shape:
            raise _unusable(model)
        found = seen[0].flatten(0, 1)[batch.positions.to(seen[0].device)]
        if not bool(torch.isfinite(found).all()):
            raise FloatingPointError("a hidden state of a sequence is not finite")
        rows, positions = np.divmod(batch.positions.cpu().numpy(), batch.tokens.shape[1])
        precise = found.to(accumulation_dtype(found.dtype))
        yield States(precise, batch.rows[rows].astype(np.int32), positions.astype(np.int32))
        progress(len(batch))


def state_width(model: PreTrainedModel) -> int:
    """Return the width of the states that go into the head.

    Raises:
        InputError: the model has no head.
    """
    return int(_head(model).weight.shape[1])


def _head(model: PreTrainedModel) -> nn.Linear:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise _unusable(model)
    return head


def _unusable(model: PreTrainedModel) -> InputError:
    return InputError(
        "methods",
        f"compare hidden states, and a {model.config.model_type} model has no linear head over those of its tokens",
        "Leave out repsim, knn_shapley and representer_points.",
    )
