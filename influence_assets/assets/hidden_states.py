"""The asset `hidden_states`: what the model's head reads of each token of a shard, before it predicts the token."""

from collections.abc import Mapping
from typing import Any

from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.layouts import METHODS_OF_STATES
from influence_assets.storage.artifacts import Artifact

BYTES_OF_A_PLACE = 3
"""Label, sequence and position of a state, compressed."""


def _compute(work: Work) -> None:
    from influence_assets.capture.hidden_states import hidden_states, state_width
    from influence_assets.layouts.hidden_states import write_states
    from influence_assets.layouts.model import loaded_model
    from influence_assets.layouts.sequences import shard_sequences
    from influence_assets.maths.notation import accumulation_dtype

    model = loaded_model(work.workspace, work.open("language_model"))
    sequences, done = shard_sequences(work.open("token_sequences")), 0

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        work.progress(done, len(sequences))

    found = hidden_states(model, sequences, count)
    width = state_width(model)
    tokens = write_states(work.draft, found, sequences, width, accumulation_dtype(model.dtype))
    work.draft.summarise(tokens=tokens, width=width, sequences=len(sequences))


def every_loss_has_a_state(artifact: Artifact, open_input: Opener) -> Finding:
    """Compare the number of states with that of the tokens that carry a loss."""
    (tokens,) = (key for key in artifact.manifest.inputs if key.asset == "token_sequences")
    expected = int(open_input(tokens).manifest.summary["predicted_tokens"])
    states = artifact.array_record("states").shape[0]
    return Finding(states == expected, {"states": states, "tokens_with_a_loss": expected})


def _cost(sizes: Any, partition: Partition) -> Cost:
    sequences, shape = sizes.sequences(str(partition.shard)), sizes.shape
    of_token = shape.width * shape.sums_itemsize + BYTES_OF_A_PLACE
    return Cost(sequences * shape.forward, sequences * (shape.tokens - 1) * of_token)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"{figures['tokens']:,} states of {figures['width']:,} numbers."}


ASSET = AssetDefinition(
    name="hidden_states",
    group="attribution",
    description=(
        "The model's last hidden state, as it goes into the head, for each token of the shard that carries a loss. "
        "Needed by the methods repsim, knn_shapley and representer_points."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="shard",
    inputs=("token_sequences", "language_model"),
    code_version="1",
    settings=lambda study: {"dtype": study.model.dtype},
    compute=_compute,
    on_request=True,
    is_requested=lambda study: not METHODS_OF_STATES.isdisjoint(study.methods),
    only_by_settings=True,
    holds_text=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: int(sizes.pass_memory(0))),
    checks=EachOf(
        Check("every_loss_has_a_state", "Each token that carries a loss has one state.", every_loss_has_a_state)
    ),
    shown=_shown,
)
