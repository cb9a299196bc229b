"""What assets share that score the pairs of a query set and a shard at weights that the training passed through."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from influence_assets.assets.method_rows import write_scores
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import Work
from influence_assets.engine.partitions import Partition
from influence_assets.layouts.attributed import ALONE, AUTO
from influence_assets.layouts.token_settings import token_settings
from influence_assets.methods.method import ScoredMethod
from influence_assets.methods.registry import given_settings
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    from torch import nn

    from influence_assets.capture.batches import Parts, Sequences
    from influence_assets.capture.runner import Runner

BYTES_PER_SCORE = 28
"""Bytes of a row of Parquet: score and ids do not compress, names do."""

Score = Callable[["Runner", "Sequences", "Sequences", "Parts"], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Returns the scores [query, sequence] and [query, part] of training sequences, given them, the queries and the parts.
The weights of the runner's model may be replaced."""


def pair_settings(study: Study, method: ScoredMethod) -> Mapping[str, Any]:
    """Return the settings that scores depend on: layers, precision, options, and how queries become tokens."""
    modules = study.curvature.modules
    return {
        "dtype": study.model.dtype,
        "modules": ALONE if modules == AUTO else modules if isinstance(modules, str) else list(modules),
        **given_settings(study, method),
        **token_settings(study, study.queries),
    }


def write_pair(work: Work, score: Score, *, sequence_passes: float) -> None:
    """Score the work's shard for the work's queries, and write the scores of sequences and of documents in them.

    Args:
        work: the work of a method with the inputs `language_model` and `token_sequences`.
        score: computes scores of some queries.
        sequence_passes: the passes that it takes for each sequence and for each query, as in `write_scores`.
    """
    from influence_assets.layouts import queries
    from influence_assets.layouts.model import runner as load_runner
    from influence_assets.layouts.sequences import parts_of, shard_sequences, shared_sequences
    from influence_assets.maths.notation import accumulation_dtype

    model, shard = work.open("language_model"), work.open("token_sequences")
    file = work.workspace.query_file(str(work.partition.query_set))
    rows, tokenized = queries.read_tokenized(model, work.workspace, file)
    asked, sequences = queries.as_sequences(tokenized), shard_sequences(shard)
    shared = shared_sequences(shard)
    runner = load_runner(work.workspace, model, work.progress)
    itemsize = accumulation_dtype(runner.dtype).itemsize
    bytes_each = itemsize * sum(layer.output_width * layer.input_width for layer in runner.modules)
    found = []
    with own_weights_after(runner.model):
        for chunk in queries.chunks(len(asked), bytes_each):
            found.append(score(runner, sequences, asked.take(np.arange(len(asked))[chunk]), parts_of(shared)))
    scores, of_parts = (np.concatenate(each) for each in zip(*found, strict=True))
    passages, of_passages = _passages(shard, shared, scores, of_parts)
    passes = sequence_passes * (len(sequences) * len(found) + len(asked))
    write_scores(work, rows["query_id"].to_list(), passages, of_passages, sequence_passes=passes)


def _passages(
    shard: Artifact, shared: pl.DataFrame, scores: NDArray[np.float64], of_parts: NDArray[np.float64]
) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Return the documents of all sequences and their scores: of one alone in its sequence, the sequence's."""
    rows = shard.table("sequences").select("sequence_id").with_row_index("row")
    spans = shard.table("sequence_documents").join(rows, on="sequence_id")
    alone = spans.filter(pl.len().over("sequence_id") == 1).select("row", "sequence_id", "document_id").collect()
    names = ["sequence_id", "document_id"]
    passages = pl.concat([alone.select(names), shared.select(names)])
    return passages, np.concatenate([scores[:, alone["row"].to_numpy().astype(np.int64)], of_parts], 1)


@contextmanager
def own_weights_after(model: "nn.Module") -> Iterator[None]:
    """Give a model, which others use too, its own weights again at the end of the block."""
    import torch

    kept = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), kept, strict=True):
                parameter.copy_(weight)


def pair_cost(sizes: Any, partition: Partition, checkpoints: int) -> Cost:
    """Return the cost of scoring a pair at some checkpoints."""
    queries, sequences = sizes.queries(str(partition.query_set)), sizes.sequences(str(partition.shard))
    parts = sizes.parts(str(partition.shard))
    shape = sizes.shape
    of_sequences = sequences * shape.passes() + shape.scores(queries, sequences)
    of_parts = parts * (shape.gradients() / 2 + shape.contractions(queries))
    of_queries = queries * (sizes.query_shape.passes() + sizes.query_shape.gradients())
    operations = checkpoints * (of_sequences + of_parts + of_queries)
    return Cost(float(operations), (sequences + 2 * parts) * queries * BYTES_PER_SCORE)


def pair_memory(sizes: Any) -> int:
    """Return the largest memory: the queries' gradients, and the model's own weights beside those of a checkpoint."""
    from influence_assets.layouts import LARGEST_QUERIES_BYTES

    queries = max(map(sizes.queries, sizes.query_tokens), default=0)
    held = min(LARGEST_QUERIES_BYTES, queries * sizes.gradient_bytes)
    return int(sizes.pass_memory(held + sizes.weight_bytes))
