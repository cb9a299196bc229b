"""The asset `query_gradients`: ∇ log p(completion given prompt) of every query of a set.

The gradient is stored as the outer products of the query's tokens, or in full where that is smaller. Methods make P of
it, when scores are computed or as `method_vectors`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from influence_assets.corpus.queries import read_query_set
from influence_assets.corpus.sources import SourceFile
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.engine.workspace import Workspace
from influence_assets.errors import InputError
from influence_assets.layouts.token_settings import query_set_content, token_settings
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.maths.curvature import Curvature

ROWS_SHOWN = 10


def _settings(study: Study) -> Mapping[str, Any]:
    rank = study.queries.rank
    return {
        "dtype": study.model.dtype,
        **({} if rank is None else {"rank": rank}),
        **token_settings(study, study.queries),
    }


def _compute(work: Work) -> None:
    from influence_assets.capture.gradients import query_outer_products
    from influence_assets.layouts import factors, queries
    from influence_assets.layouts.model import runner as load_runner
    from influence_assets.layouts.outer_products import GradientWriter
    from influence_assets.maths.notation import accumulation_dtype

    file = work.workspace.query_file(str(work.partition.query_set))
    model = work.open("language_model")
    rows, tokenized = queries.read_tokenized(model, work.workspace, file)
    refuse_ids_of_other_sets(work.workspace, file, rows)
    notes = queries.notes(model, work.study, [*rows["prompt"], *rows["completion"]])
    runner = load_runner(work.workspace, model, work.progress, len(tokenized))
    curvature = factors.curvature_on(runner, work.open("eigenbases"), work.open("curvature"))
    gradients = GradientWriter(work.draft, curvature, work.study.queries.rank)
    generation = work.open("curvature").manifest.summary
    likelihoods: list[float] = []
    longest = max((len(query.tokens) for query in tokenized), default=0)
    for chunk in queries.chunks(len(tokenized), _held_bytes(work.study, curvature, longest)):
        sequences = queries.as_sequences(tokenized[chunk])
        found = query_outer_products(runner, sequences, factors.bases_of(curvature))
        likelihoods += found.log_probabilities.tolist()
        gradients.append(found)
        del found  # before there are those of the next chunk
    gradients.finish()
    starts = [query.completion_start for query in tokenized]
    work.draft.table(
        "queries",
        rows.drop("chat").with_columns(
            pl.Series("prompt_tokens", starts, pl.Int32),
            pl.Series("completion_tokens", [len(q.tokens) - q.completion_start for q in tokenized], pl.Int32),
            pl.Series("log_probability_nats", likelihoods),
            pl.Series("gradient_norm", gradients.norms),
            pl.Series("truncation_error", gradients.truncation_errors),
            pl.Series("self_influence_nats", gradients.squared_norms, pl.Float64) / generation["training_sequences"],
        ),
    )
    if notes:
        work.draft.summarise(notes=notes)
    work.draft.summarise(
        layers=list(curvature),
        queries=len(rows),
        gradient_bytes=len(rows) * queries.gradient_bytes(curvature, accumulation_dtype(runner.dtype)),
        largest_truncation_error=max(gradients.truncation_errors, default=0.0),
        generation_id=generation["generation_id"],
        training_sequences=generation["training_sequences"],
    )


def _held_bytes(study: Study, curvature: "Mapping[str, Curvature]", tokens: int) -> int:
    """Return the most bytes that a query takes until it is written."""
    import torch

    from influence_assets.layouts.outer_products import outer_product_bytes
    from influence_assets.maths.notation import accumulation_dtype

    dtype = accumulation_dtype(getattr(torch, study.model.dtype))
    return outer_product_bytes(tokens, [layer.shape for layer in curvature.values()], dtype.itemsize)


def refuse_ids_of_other_sets(workspace: Workspace, file: SourceFile, queries: pl.DataFrame) -> None:
    """Raise if another query file has a query with the same id, which is the query's key in every table.

    Args:
        workspace: the study's workspace, with its query files.
        file: the queries' file.
        queries: the queries, as `read_query_set` returns them.

    Raises:
        InputError: two files share an id; the error names both files and rows.
    """
    for other in workspace.query_sets.values():
        if other.name == file.name:
            continue
        try:
            others = read_query_set(other)
        except InputError:
            continue  # its own partition reports what is wrong with it
        shared = queries.join(others, on="query_id", maintain_order="left").head(1)
        for row in shared.iter_rows(named=True):
            raise InputError(
                f"{file.url}, row {row['source_row']}",
                f"query_id {row['query_id']!r} is that of {other.url}, row {row['source_row_right']}, too",
                "Give each row a query_id of its own, and each question once.",
            )


def _cost(sizes: Any, partition: Partition) -> Cost:
    from influence_assets.layouts.outer_products import stored_bytes

    shape, lengths = sizes.query_shape, sizes.query_tokens[str(partition.query_set)]
    shapes, itemsize, rank = _shapes(sizes), shape.sums_itemsize, sizes.study.queries.rank
    cost = Cost(bytes=0)
    for tokens in lengths:  # the last has no gradient
        stored = stored_bytes(tokens - 1, shapes, itemsize, rank)
        cost += Cost(shape.passes() + shape.outer_products(tokens - 1), stored)
    return cost


def _memory(sizes: Any) -> int:
    from influence_assets.layouts import LARGEST_QUERIES_BYTES
    from influence_assets.layouts.outer_products import outer_product_bytes

    longest = max((tokens for lengths in sizes.query_tokens.values() for tokens in lengths), default=0)
    each = outer_product_bytes(longest, _shapes(sizes), sizes.shape.sums_itemsize)
    at_once = min(max(map(sizes.queries, sizes.query_tokens), default=0), max(1, LARGEST_QUERIES_BYTES // max(1, each)))
    return int(sizes.pass_memory(sum(map(sizes.curvature_bytes, sizes.shape.layers)) + at_once * each))


def _shapes(sizes: Any) -> list[tuple[int, int]]:
    return [(layer.d_out, layer.d_in) for layer in sizes.shape.layers]


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    columns = ["query_id", "prompt", "completion", "completion_tokens", "log_probability_nats", "gradient_norm"]
    figures = artifact.manifest.summary
    short = f"Gradients of {figures['queries']:,} questions in generation {figures['generation_id']}."
    if figures["largest_truncation_error"]:
        short += f" Long ones are kept to a lower rank; relative error up to {figures['largest_truncation_error']:.2g}."
        columns.append("truncation_error")
    return {
        "in_short": short,
        "first_queries": Table(artifact.table("queries").select(columns).head(ROWS_SHOWN).collect()),
    }


ASSET = AssetDefinition(
    name="query_gradients",
    group="queries",
    description=(
        "∇ log p(completion given prompt) of every query of the set, layer by layer: as the outer "
        "products of its tokens, those of long queries truncated to a lower rank."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="query_set",
    inputs=("language_model", "eigenbases", "curvature"),
    reads=("query_files",),
    code_version="3",
    settings=_settings,
    source_content=lambda workspace, partition: query_set_content(workspace, str(partition.query_set)),
    compute=_compute,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    hidden=frozenset({"layers", "gradient_bytes"}),
    source_change=lambda _workspace, _partition, _last: "its query file changed",
)
