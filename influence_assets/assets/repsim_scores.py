"""The asset `repsim_scores`: how alike the hidden states of each query of a set and each sequence of a shard are."""

from collections.abc import Mapping
from typing import Any

from influence_assets.assets.method_rows import BYTES_PER_SCORE, FORWARD_PASS, listed, write_scores
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.methods.method import ScoredMethod
from influence_assets.storage.artifacts import Artifact


def _compute(work: Work) -> None:
    import torch

    from influence_assets.layouts.hidden_states import passage_of_token, query_ids, query_points, state_blocks
    from influence_assets.layouts.sequences import passages_of
    from influence_assets.maths.representation_similarity import divided_similarities, state_sums

    states, passages = work.open("hidden_states"), passages_of(work.open("token_sequences"))
    parts = passage_of_token(states, passages)
    sums, done = torch.zeros(passages.height, int(states.manifest.summary["width"]), dtype=torch.float64), 0
    for block in state_blocks(states):
        sums += state_sums(block, parts[done : done + len(block)], passages.height)
        done += len(block)
    asked = query_points(work.open("query_states"), "cpu")
    of_queries = state_sums(asked.states, asked.queries, asked.query_count)
    sequences = torch.from_numpy(passages["row"].to_numpy().astype("int64"))
    scores = divided_similarities(of_queries, sums, sequences).numpy()
    # All query sets read the states that one forward pass over the shard has made.
    passes = FORWARD_PASS * passages["row"].n_unique() / len(work.workspace.query_sets)
    ids = query_ids(work.open("query_states"))
    write_scores(work, ids, passages.select("sequence_id", "document_id"), scores, sequence_passes=passes)


def _cost(sizes: Any, partition: Partition) -> Cost:
    queries, shard = sizes.queries(str(partition.query_set)), str(partition.shard)
    rows = queries * (sizes.sequences(shard) + 2 * sizes.parts(shard))
    return Cost(bytes=rows * BYTES_PER_SCORE, amount=sizes.sequences(shard))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"{figures['queries']:,} questions × {figures['sequences']:,} sequences."}


ASSET = AssetDefinition(
    name="repsim_scores",
    group="attribution",
    description=(
        "The cosine of the mean hidden states of each query's completion and of each sequence of the shard, divided "
        "among the sequence's documents. No gradients, no curvature: what the model's last layer finds alike."
    ),
    kinds=frozenset({"torch", "parquet"}),
    partitioned_by="pair",
    inputs=("hidden_states", "query_states", "token_sequences"),
    code_version="1",
    compute=_compute,
    on_request=True,
    is_requested=listed("repsim"),
    only_by_settings=True,
    method=ScoredMethod(name="repsim", unit="cosine"),
    holds_text=True,
    is_published=True,
    cost=CostModel(partition=_cost),
    shown=_shown,
)
