"""The layout of hidden states: of a shard's tokens, in no particular order, and of the tokens of queries' completions.

A shard's artifact has the arrays `states` [token, width], `labels` (the token that a state predicts), `sequences` (the
number of its sequence in the shard) and `positions` (of the state; it predicts the token after that). A query set's has
`states`, `labels` and `queries`, and the table `asked` with the queries' ids.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from influence_assets.capture.batches import Sequences
from influence_assets.capture.hidden_states import States as SomeStates
from influence_assets.layouts.sequences import passages_of
from influence_assets.maths.points import QueryPoints, States, TrainingPoints
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.drafts import Draft

STATES_AT_ONCE = 2**13


def write_states(draft: Draft, found: Iterable[SomeStates], of: Sequences, width: int, dtype: torch.dtype) -> int:
    """Write the hidden states of a shard's tokens, and return how many there are.

    Args:
        draft: gets the arrays.
        found: the states.
        of: the sequences that they are of.
        width: the width of a state.
        dtype: their precision.
    """
    states = draft.growing_array("states", (width,), str(dtype).removeprefix("torch."))
    others = {name: draft.growing_array(name, (), "int32") for name in ("labels", "sequences", "positions")}
    for some in found:
        states.append(some.states.cpu().numpy())
        others["labels"].append(of.tokens[some.sequences, some.positions + 1].astype(np.int32))
        others["sequences"].append(some.sequences)
        others["positions"].append(some.positions)
    return states.rows


def state_blocks(hidden_states: Artifact) -> Iterator[Tensor]:
    """Yield a shard's states, some at a time, in the order in which they are stored."""
    count = hidden_states.array_record("states").shape[0]
    for start in range(0, count, STATES_AT_ONCE):
        yield torch.from_numpy(hidden_states.rows("states", start, min(start + STATES_AT_ONCE, count)))


def all_states(shards: Sequence[Artifact], *, with_ones: bool = False) -> States:
    """Return what yields the states of all shards, one shard after the other.

    Args:
        shards: artifacts of `hidden_states`.
        with_ones: whether states end with a 1, for a head with a bias.
    """

    def blocks() -> Iterator[Tensor]:
        for shard in shards:
            for block in state_blocks(shard):
                yield _with_ones(block) if with_ones else block

    return blocks


def passage_of_token(hidden_states: Artifact, passages: pl.DataFrame) -> Tensor:
    """Return the row of `passages_of` that each stored token belongs to: that of the document whose token it is.

    What a state predicts may be of another document than what it has read last; the one whose token is learnt counts,
    because it is what goes when a document is left out.
    """
    sequences, positions = (hidden_states.array(name).astype(np.int64) for name in ("sequences", "positions"))
    longest = 1 + int(passages["token_end"].max() or 0)  # type: ignore[arg-type]  # polars does not know its type
    starts = (passages["row"].cast(pl.Int64) * longest + passages["token_start"]).to_numpy()
    return torch.from_numpy(np.searchsorted(starts, sequences * longest + positions + 1, side="right") - 1)


def training_points(
    shards: Sequence[tuple[Artifact, Artifact]], *, with_ones: bool = False
) -> tuple[TrainingPoints, pl.DataFrame]:
    """Return the tokens of all shards, and the passages that are their parts.

    Args:
        shards: the artifacts of `hidden_states` and `token_sequences` of each shard.
        with_ones: whether states end with a 1, for a head with a bias.

    Returns:
        The points, and columns `sequence_id` and `document_id` with a row for each part.
    """
    passages = [passages_of(tokens) for _, tokens in shards]
    firsts = np.cumsum([0, *(each.height for each in passages)])
    parts = [
        passage_of_token(states, each) + int(first)
        for (states, _), each, first in zip(shards, passages, firsts, strict=False)
    ]
    labels = [torch.from_numpy(states.array("labels").astype(np.int64)) for states, _ in shards]

    states = all_states([states for states, _ in shards], with_ones=with_ones)
    points = TrainingPoints(states, torch.cat(labels), torch.cat(parts), int(firsts[-1]))
    return points, pl.concat(each.select("sequence_id", "document_id") for each in passages)


def paired_shards(
    hidden_states: Sequence[Artifact], token_sequences: Sequence[Artifact]
) -> list[tuple[Artifact, Artifact]]:
    """Return the two artifacts of each shard.

    Raises:
        ValueError: they are not of the same shards.
    """
    pairs = list(zip(hidden_states, token_sequences, strict=True))
    if any(states.key.partition != tokens.key.partition for states, tokens in pairs):
        raise ValueError("the hidden states are not those of the token sequences")
    return pairs


def query_points(query_states: Artifact, device: str, *, with_ones: bool = False) -> QueryPoints:
    """Return the tokens of a query set's completions, on a device.

    Args:
        query_states: the query set's artifact.
        device: where the states go.
        with_ones: as for `training_points`.
    """
    states, labels, queries = (torch.from_numpy(query_states.array(name)) for name in ("states", "labels", "queries"))
    states = (_with_ones(states) if with_ones else states).to(device)
    return QueryPoints(states, labels.long(), queries.long(), query_states.manifest.rows["asked"])


def query_ids(query_states: Artifact) -> list[str]:
    """Return the ids of a query set's queries, in the order of their numbers."""
    return query_states.table("asked").select("query_id").collect()["query_id"].to_list()


def _with_ones(states: Tensor) -> Tensor:
    return torch.cat([states, states.new_ones(len(states), 1)], 1)
