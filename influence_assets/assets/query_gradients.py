"""The asset `query_gradients`: the factors with which training gradients are multiplied, for every query of a set."""

from collections.abc import Mapping
from functools import lru_cache, partial
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
from influence_assets.layouts.token_settings import chat_template_content, token_settings
from influence_assets.methods.method import AttributionMethod, MethodContext, TrainingSequences
from influence_assets.methods.registry import method_settings, methods_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    from torch import Tensor

    from influence_assets.capture.gradients import QueryGradients
    from influence_assets.capture.runner import Runner
    from influence_assets.maths.ekfac import LayerCurvature

ROWS_SHOWN = 10


def _settings(study: Study) -> Mapping[str, Any]:
    return {"dtype": study.model.dtype, **method_settings(study), **token_settings(study, study.queries)}


def _uses(study: Study, name: str) -> bool:
    return name != "token_sequences" or any(method.reads_training for method in methods_of(study))


def _source_content(workspace: Workspace, partition: Partition) -> Mapping[str, Any]:
    file = workspace.query_file(str(partition.query_set))
    content = workspace.query_hash(file)
    return {"content": content, **chat_template_content(workspace, lambda: _has_chats(file, content))}


@lru_cache(maxsize=1024)
def _has_chats(file: SourceFile, _content: str) -> bool:
    try:
        return bool(read_query_set(file)["chat"].is_not_null().any())
    except InputError:  # computing the partition says what is wrong
        return False


def _compute(work: Work) -> None:
    from influence_assets.capture.gradients import query_gradients
    from influence_assets.layouts import factors, queries
    from influence_assets.layouts.model import runner as load_runner

    file = work.workspace.query_file(str(work.partition.query_set))
    rows = read_query_set(file)
    work.workspace.refuse_changed(file)
    refuse_ids_of_other_sets(work.workspace, file, rows)
    model = work.open("language_model")
    places = [f"{file.url}, row {row}" for row in rows["source_row"]]
    notes = queries.notes(model, work.study, [*rows["prompt"], *rows["completion"]])
    prompts, completions, chats = (list(rows[name]) for name in ("prompt", "completion", "chat"))
    tokenized = queries.tokenize(model, work.workspace, prompts, completions, places, chats)
    runner = load_runner(work.workspace, model, work.progress, len(tokenized))
    curvature = factors.curvature_on(runner, work.open("eigenbases"), work.open("curvature"))
    arrays = _GradientArrays(work, runner, curvature, len(tokenized))
    for chunk in queries.chunks(len(tokenized), bytes_of_gradient(curvature)):
        sequences = queries.as_sequences(tokenized[chunk])
        arrays.append(query_gradients(runner, sequences, factors.bases_of(curvature)))
    starts = [query.completion_start for query in tokenized]
    work.draft.table(
        "queries",
        rows.drop("chat").with_columns(
            pl.Series("prompt_tokens", starts, pl.Int32),
            pl.Series("completion_tokens", [len(q.tokens) - q.completion_start for q in tokenized], pl.Int32),
            pl.Series("log_probability_nats", arrays.log_probabilities),
            pl.Series("gradient_norm", arrays.norms),
        ),
    )
    if notes:
        work.draft.summarise(notes=notes)
    generation = work.open("curvature").manifest.summary
    work.draft.summarise(
        layers=list(curvature),
        queries=len(rows),
        generation_id=generation["generation_id"],
        training_sequences=generation["training_sequences"],
    )


class _GradientArrays:
    """A writer of what every method computes from the gradients of queries, chunk after chunk.

    Args:
        work: the work for the query set.
        runner: runs the model.
        curvature: the curvature of every layer.
        queries: number of queries.
    """

    def __init__(self, work: Work, runner: "Runner", curvature: "Mapping[str, LayerCurvature]", queries: int) -> None:
        from influence_assets.layouts.queries import array_name

        self._work = work
        self._runner = runner
        self._curvature = curvature
        # Methods that work in place overwrite the gradients, so they come last.
        self._methods = sorted(methods_of(work.study), key=lambda method: method.in_place)
        self._arrays = {
            (method.name, name): work.draft.mappable_array(
                array_name(name, method.name), (queries, *layer.Λ.shape), str(layer.Λ.dtype).removeprefix("torch.")
            )
            for method in self._methods
            for name, layer in curvature.items()
        }
        self.log_probabilities: list[float] = []
        self.norms: list[float] = []

    def append(self, gradients: "QueryGradients") -> None:
        """Prepare and write the next queries; their gradients are overwritten."""
        self.log_probabilities += gradients.log_probabilities.tolist()
        self.norms += gradient_norms(gradients.layers)
        for method in self._methods:
            V = gradients.layers
            if method.in_place and method is not self._methods[-1]:
                V = {name: gradient.clone() for name, gradient in V.items()}
            for name, P in method.prepare(V, self._context(method)).items():
                self._arrays[method.name, name].append(P.cpu().numpy())

    def _context(self, method: AttributionMethod) -> MethodContext:
        from influence_assets.capture.runner import Runner
        from influence_assets.layouts.factors import bases_of
        from influence_assets.layouts.sequences import shard_sequences

        shards = self._work.open_all("token_sequences") if method.reads_training else []
        runner = self._runner
        return MethodContext(
            Runner(runner.model, runner.modules, runner.batch_sequences),  # its passes must not count as progress
            bases_of(self._curvature),
            self._curvature if method.needs_curvature else {},
            TrainingSequences([partial(shard_sequences, shard) for shard in shards]),
        )


def bytes_of_gradient(curvature: "Mapping[str, LayerCurvature]") -> int:
    """Return the bytes of one query's gradient over all layers."""
    return sum(layer.Λ.numel() * layer.Λ.element_size() for layer in curvature.values())


def gradient_norms(layers: "Mapping[str, Tensor]") -> list[float]:
    """Return ‖∇f‖ of each query over all layers."""
    import torch

    from influence_assets.maths.notation import in_float64

    squares = torch.stack([in_float64(V).flatten(1).square().sum(1) for V in layers.values()])
    return [float(norm) for norm in squares.sum(0).sqrt()]


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
    shape, count = sizes.query_shape, sizes.queries(str(partition.query_set))
    stored = count * sizes.methods * shape.gradient_numbers * shape.sums_itemsize
    return Cost(count * (shape.passes() + shape.rotated_gradients()), stored)


def _memory(sizes: Any) -> int:
    held = (1 + sizes.most_scored_queries * (1 + 1 / sizes.methods)) * sizes.gradient_bytes
    return int(sizes.pass_memory(sizes.factor_bytes + held))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    columns = ("query_id", "prompt", "completion", "completion_tokens", "log_probability_nats", "gradient_norm")
    figures = artifact.manifest.summary
    return {
        "in_short": f"Gradients of {figures['queries']:,} questions in generation {figures['generation_id']}.",
        "first_queries": Table(artifact.table("queries").select(columns).head(ROWS_SHOWN).collect()),
    }


ASSET = AssetDefinition(
    name="query_gradients",
    group="queries",
    description=(
        "(G+λI)⁻¹ ∇ log p(completion given prompt) of every query of the set, layer by layer, in the eigenbases."
    ),
    kinds=frozenset({"torch", "zarr"}),
    partitioned_by="query_set",
    inputs=("language_model", "eigenbases", "curvature", "token_sequences"),
    reads=("query_files",),
    uses=_uses,
    code_version="2",
    settings=_settings,
    source_content=_source_content,
    compute=_compute,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    shown=_shown,
    hidden=frozenset({"layers"}),
    source_change=lambda _workspace, _partition, _last: "its query file changed",
)
