"""The asset `query_states`: the hidden states that predict the tokens of each query's completion."""

from collections.abc import Mapping
from typing import Any

from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.layouts import METHODS_OF_STATES
from influence_assets.layouts.token_settings import query_set_content, token_settings
from influence_assets.storage.artifacts import Artifact


def _compute(work: Work) -> None:
    import numpy as np

    from influence_assets.capture.hidden_states import hidden_states
    from influence_assets.layouts import queries
    from influence_assets.layouts.model import loaded_model

    file, language_model = work.workspace.query_file(str(work.partition.query_set)), work.open("language_model")
    rows, tokenized = queries.read_tokenized(language_model, work.workspace, file)
    sequences = queries.as_sequences(tokenized)
    found = list(hidden_states(loaded_model(work.workspace, language_model), sequences))
    numbers = np.concatenate([some.sequences for some in found])
    positions = np.concatenate([some.positions for some in found])
    work.draft.array("states", np.concatenate([some.states.cpu().numpy() for some in found]))
    work.draft.array("labels", sequences.tokens[numbers, positions + 1].astype(np.int32))
    work.draft.array("queries", numbers)
    work.draft.table("asked", rows.select("query_id"))
    work.draft.summarise(queries=len(rows), tokens=len(numbers))


def _cost(sizes: Any, partition: Partition) -> Cost:
    queries, shape = sizes.queries(str(partition.query_set)), sizes.query_shape
    return Cost(queries * shape.forward, None)


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"{figures['tokens']:,} states of the completions of {figures['queries']:,} questions."}


ASSET = AssetDefinition(
    name="query_states",
    group="queries",
    description=(
        "The model's last hidden state, as it goes into the head, for each token of each query's completion. Needed by "
        "the methods repsim, knn_shapley and representer_points."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="query_set",
    inputs=("language_model",),
    reads=("query_files",),
    code_version="1",
    settings=lambda study: {"dtype": study.model.dtype, **token_settings(study, study.queries)},
    source_content=lambda workspace, partition: query_set_content(workspace, str(partition.query_set)),
    compute=_compute,
    on_request=True,
    is_requested=lambda study: not METHODS_OF_STATES.isdisjoint(study.methods),
    only_by_settings=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=lambda sizes: int(sizes.pass_memory(0))),
    shown=_shown,
    source_change=lambda _workspace, _partition, _last: "its query file changed",
)
