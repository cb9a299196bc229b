"""The asset `method_vectors`: P of every query, for the methods that cannot make it of one layer after the other.

Such a method may read training sequences, to multiply by the exact Hessian for instance, which is done once for each
query and not for each shard.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from influence_assets.assets.method_costs import preparing_operations
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown
from influence_assets.methods.method import AttributionMethod, MethodContext, SolverStep, TrainingSequences
from influence_assets.methods.registry import methods_in_full, options_of, versions_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.capture.runner import Runner
    from influence_assets.layouts.queries import StoredQueries
    from influence_assets.maths.curvature import Curvature

V_AND_P = 2
"""The gradients in full that are in memory for a method."""


def _settings(study: Study) -> Mapping[str, Any]:
    return {"dtype": study.model.dtype, "methods": versions_of(study, methods_in_full(study))}


def _uses(study: Study, name: str) -> bool:
    return name != "token_sequences" or any(method.reads_training for method in methods_in_full(study))


def _compute(work: Work) -> None:
    from influence_assets.layouts import factors
    from influence_assets.layouts.model import runner as load_runner
    from influence_assets.layouts.queries import StoredQueries
    from influence_assets.maths.notation import accumulation_dtype

    methods, model = methods_in_full(work.study), work.open("language_model")
    runner = load_runner(work.workspace, model, lambda _done, _total: None, None)
    curvature = factors.curvature_on(runner, work.open("eigenbases"), work.open("curvature"))
    queries = StoredQueries(work.open("query_gradients"), runner, curvature, work.study)
    dtype, count = str(accumulation_dtype(runner.dtype)).removeprefix("torch."), len(queries.query_ids)
    steps = len(methods) * count
    done = 0
    residuals: list[pl.DataFrame] = []
    for method in methods:
        context = _context(work, method, runner, curvature)
        arrays = {
            name: work.draft.mappable_array(f"{name}.{method.name}", (count, *layer.shape), dtype)
            for name, layer in curvature.items()
        }
        for rows in _chunks(queries):
            watched = replace(context, record=_recorder(method, queries.query_ids[rows], residuals))
            for name, P in method.prepare(queries.gradients(rows), watched).items():
                arrays[name].append(P.cpu().numpy())
            done += rows.stop - rows.start
            work.progress(done, steps)
    if residuals:
        work.draft.table("solver_residuals", pl.concat(residuals).sort("method", "query_id", "iteration"))
    work.draft.summarise(queries=count, methods=[method.name for method in methods])


def _recorder(
    method: AttributionMethod, query_ids: Sequence[str], residuals: list[pl.DataFrame]
) -> Callable[[SolverStep], None]:
    """Return what records how far the vectors of some queries are from a solution."""
    from influence_assets.layouts.solver_residuals import residual_rows

    return lambda step: residuals.append(residual_rows(method.name, query_ids, step))


def _chunks(queries: "StoredQueries") -> Iterator[slice]:
    """Yield slices of the queries; V and P of each slice fit into memory."""
    from influence_assets.layouts.queries import chunks

    return chunks(len(queries.query_ids), V_AND_P * max(1, queries.bytes_in_full))


def _context(
    work: Work, method: AttributionMethod, runner: "Runner", curvature: "Mapping[str, Curvature]"
) -> MethodContext:
    from influence_assets.layouts.factors import bases_of
    from influence_assets.layouts.sequences import shard_sequences

    shards = work.open_all("token_sequences") if method.reads_training else []
    return MethodContext(
        replace(runner, progress=lambda _count: None),  # its passes must not count as progress
        bases_of(curvature),
        curvature if method.needs_curvature else {},
        TrainingSequences([partial(shard_sequences, shard) for shard in shards]),
        options_of(work.study, method),
    )


def _cost(sizes: Any, partition: Partition) -> Cost:
    queries, methods = sizes.queries(str(partition.query_set)), methods_in_full(sizes.study)
    calls, sequences = math.ceil(queries / _at_once(sizes)), sizes.all_sequences()
    operations = [
        preparing_operations(sizes.shape, method, options_of(sizes.study, method), queries, calls, sequences)
        for method in methods
    ]
    # What a method does not declare cannot be counted.
    return Cost(sum(each for each in operations if each is not None), queries * len(methods) * sizes.gradient_bytes)


def _memory(sizes: Any) -> int:
    held = min(sizes.most_queries, _at_once(sizes)) * V_AND_P * sizes.gradient_bytes
    return int(sizes.pass_memory(sum(map(sizes.curvature_bytes, sizes.shape.layers)) + held))


def _at_once(sizes: Any) -> int:
    """Return how many queries are prepared together at most."""
    from influence_assets.layouts import LARGEST_QUERIES_BYTES

    return int(max(1, LARGEST_QUERIES_BYTES // max(1, V_AND_P * sizes.gradient_bytes)))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {"in_short": f"Vectors of {figures['queries']:,} questions by {', '.join(figures['methods'])}."}


ASSET = AssetDefinition(
    name="method_vectors",
    group="queries",
    description=(
        "What training gradients are multiplied by, for every query of the set and each listed method that cannot make "
        "it of one layer after the other, such as one that multiplies by the exact Hessian."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="query_set",
    inputs=("language_model", "eigenbases", "curvature", "query_gradients", "token_sequences"),
    uses=_uses,
    code_version="1",
    settings=_settings,
    compute=_compute,
    on_request=True,
    is_requested=lambda study: bool(methods_in_full(study)),
    only_by_settings=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
)
