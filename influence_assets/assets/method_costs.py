"""What the scores of each method cost: passes over the corpus, and the bytes that are kept for them.

One pass is a forward and a backward pass of the model over every sequence. Work is counted as operations, as
`influence plan` counts it, and divided by those of one pass, so that it says the same on every machine. What is made of
the queries alone, one pass of each, is not counted. Of a method that stops early, all iterations are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influence_assets.assets.fitted_pass import curvature_form
from influence_assets.engine.definition import Work
from influence_assets.layouts.attributed import modules_of
from influence_assets.methods.method import AttributionMethod
from influence_assets.methods.registry import MAIN, methods_in_full, methods_of, options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.storage.artifacts.manifest import Manifest

if TYPE_CHECKING:
    from influence_assets.capture.operations import ModelShape

CURVATURE = ("eigenbases", "curvature")
"""What scores read of a curvature: its eigenvectors, and Λ with the damping."""


@dataclass(frozen=True)
class MethodCost:
    """What a method's scores cost.

    Args:
        passes: the operations of its scores of all queries and sequences, of preparing its queries, and of the
            curvature if it uses one, over those of one pass over the corpus; None if they are not counted, as of a
            method that reads training sequences to prepare its queries and does not declare how many.
        bytes: what is kept for them: scores, query gradients, and the curvature if it uses one.
    """

    passes: float | None
    bytes: int


def scoring_operations(shape: "ModelShape", queries: int, sequences: int) -> int:
    """Count the operations of the scores of all sequences, with the pass over them.

    Args:
        shape: the shape of the model and of a sequence.
        queries: the number of queries.
        sequences: the number of sequences.
    """
    return sequences * shape.passes() + shape.scores(queries, sequences)


def fitting_operations(shape: "ModelShape", fitted: int) -> int:
    """Count the operations of a curvature: the factors, their eigenvectors, and the corrected eigenvalues.

    Args:
        shape: the shape of the model and of a sequence.
        fitted: how many sequences the curvature is fitted on.
    """
    of_sequence = 2 * shape.passes() + shape.covariances() + shape.statistics()
    return fitted * of_sequence + sum(layer.decomposition() for layer in shape.layers)


def preparing_operations(
    shape: "ModelShape", method: AttributionMethod, options: Any, queries: int, calls: int, sequences: int
) -> float | None:
    """Count the operations of preparing a method's queries from training sequences; None if it does not declare them.

    Args:
        shape: the shape of the model and of a training sequence.
        method: the method.
        options: the study's settings of it.
        queries: the number of queries.
        calls: how often some of them are prepared together.
        sequences: the number of training sequences.
    """
    if not method.reads_training:
        return 0.0
    if method.passes is None:
        return None
    passes, shared = method.passes(options, sequences), shape.forward + shape.head
    along_vectors = queries * passes.of_query + calls * passes.of_call
    return along_vectors * shape.gauss_newton() + calls * (passes.of_query + passes.of_call) * shared


def method_costs(work: Work) -> dict[str, MethodCost]:
    """Return the cost of each of the study's methods.

    Args:
        work: the work of an asset that reads the model, the sequences, the query gradients and the scores.
    """
    shape, scores, queries = shape_of(work), work.open_all("influence_scores"), work.open_all("query_gradients")
    sequences = _sequences(work)
    one_pass = sequences * shape.passes()
    asked = sum(queries_of.manifest.rows["queries"] for queries_of in queries)
    of_queries = sum(each.manifest.bytes for each in queries)
    curvature = [manifest for name in CURVATURE for manifest in _manifests(work, scores, name)]
    fitted = max(int(manifest.summary.get("fitted_sequences", 0)) for manifest in curvature)
    methods, costs = methods_of(work.study), {}
    others, in_full = work.open_all("method_scores"), methods_in_full(work.study)
    vectors = sum(each.bytes for each in _manifests(work, others, "method_vectors"))
    for method in methods:
        of_scores = _bytes(scores) if method.name == MAIN else _bytes(others) // max(1, len(methods) - 1)
        operations, kept = scoring_operations(shape, asked, sequences), of_queries + of_scores
        if method in in_full:
            kept += vectors // len(in_full)
        if method.needs_curvature:
            operations += fitting_operations(shape, fitted)
            kept += sum(manifest.bytes for manifest in curvature)
        preparing = preparing_operations(shape, method, options_of(work.study, method), asked, len(queries), sequences)
        passes = None if preparing is None else (operations + preparing) / one_pass
        costs[method.name] = MethodCost(passes, kept)
    return costs


def scored_costs(work: Work) -> dict[str, MethodCost]:
    """Return the cost of each method that is an asset of its own, of which the work reads scores.

    Each of its artifacts says how many passes of single sequences it took.
    """
    costs: dict[str, MethodCost] = {}
    for asset in work.workspace.graph:
        artifacts = [] if asset.method is None else work.open_all(asset.name)
        if asset.method is not None and artifacts:
            passes = sum(float(artifact.manifest.summary["sequence_passes"]) for artifact in artifacts)
            costs[asset.method.name] = MethodCost(passes / _sequences(work), _bytes(artifacts))
    return costs


def retraining_cost(work: Work) -> MethodCost:
    """Return the cost of the retrained models that an asset's work reads."""
    shape, models = shape_of(work), [model.manifest for model in work.open_all("retrained_models")]
    training = work.study.model.train
    seen = sum(int(model.summary["training_sequences"]) for model in models) * (training.epochs if training else 0)
    passes = seen * shape.training_step() / (_sequences(work) * shape.passes())
    return MethodCost(passes, sum(model.bytes for model in models))


def shape_of(work: Work) -> "ModelShape":
    """Return the shape of the model that the study trained, and of a pass over one of its sequences."""
    from influence_assets.capture.model_shape import model_shape
    from influence_assets.models.config import read_config

    study, model = work.study, work.open("language_model")
    return model_shape(
        read_config(model.path("model")), study.model.dtype, modules_of(study, model.manifest.summary),
        tokens=study.sequences.length, form=curvature_form(study),
    )  # fmt: skip


def _sequences(work: Work) -> int:
    return sum(shard.manifest.rows["sequences"] for shard in work.open_all("token_sequences"))


def _bytes(scores: Iterable[Artifact]) -> int:
    return sum(artifact.manifest.bytes for artifact in scores)


def _manifests(work: Work, readers: Iterable[Artifact], asset: str) -> "list[Manifest]":
    """Return the manifests of an asset's artifacts that these were computed from, each once."""
    keys = {key for each in readers for key in each.manifest.inputs if key.asset == asset}
    return [work.workspace.store.open(key).manifest for key in keys]
