"""The asset `pbrf_scores`: how the study's own model responds to one more copy of chosen sequences.

A sequence's response is what influence functions estimate, found by its definition rather than from gradients at one
point (`capture/bregman.py`). It costs a minimisation for each sequence, so that it checks scores rather than ranks a
corpus.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import Field

from influence_assets.assets.method_rows import listed, write_scores
from influence_assets.assets.retraining import tokenized_queries
from influence_assets.engine.checks import Check, EachOf, Finding, Opener
from influence_assets.engine.costs import Cost
from influence_assets.engine.definition import AssetDefinition, CostModel, Work
from influence_assets.engine.partitions import Partition
from influence_assets.engine.shown import Shown, Table
from influence_assets.engine.workspace import Workspace
from influence_assets.methods.method import MethodOptions, ScoredMethod, TrainingSequences
from influence_assets.methods.registry import given_settings, options_of
from influence_assets.storage.artifacts import Artifact
from influence_assets.study import Study

if TYPE_CHECKING:
    from influence_assets.capture.batches import Sequences
    from influence_assets.capture.bregman import Response

NAME = "pbrf"

BYTES_PER_SCORE = 20

FORWARD = 1 / 3
"""A forward pass, as a share of a pass forward and backward."""


class PbrfOptions(MethodOptions):
    """What `method_options.pbrf` says."""

    sequences: tuple[int, ...] = Field(
        (), description="The ids of sequences whose responses are computed, as in the table `sequences`."
    )
    strongest: int = Field(
        3,
        ge=0,
        description="Responses are also computed of so many of each query's highest EK-FAC scores, and as many of its "
        "lowest.",
    )
    fit_sequences: int = Field(
        256, ge=1, description="On about so many training sequences, which are drawn, the model stays near to itself."
    )
    seed: int = Field(0, ge=0, description="Seed of the draw.")
    tolerance: float = Field(
        1e-3,
        gt=0,
        lt=1,
        description="A response is found once the objective's gradient is at most this share of the added sequence's.",
    )
    iterations: int = Field(200, ge=1, description="The largest number of steps that find a response.")


METHOD = ScoredMethod(name=NAME, unit="nats", options=PbrfOptions)


def _uses(study: Study, name: str) -> bool:
    options = given_settings(study, METHOD).get("options", {})
    return name != "influence_scores" or options.get("strongest", 0) > 0


def _options(study: Study) -> PbrfOptions:
    options = options_of(study, METHOD)
    assert isinstance(options, PbrfOptions)  # noqa: S101
    return options


def _settings(study: Study) -> Mapping[str, Any]:
    return given_settings(study, METHOD)


def _source_content(workspace: Workspace, _partition: Partition) -> Mapping[str, Any]:
    return {"questions": {name: workspace.query_hash(file) for name, file in workspace.query_sets.items()}}


def _compute(work: Work) -> None:
    import numpy as np

    from influence_assets.capture.bregman import ProximalBregman
    from influence_assets.layouts.factors import curvature_on
    from influence_assets.layouts.model import runner_in_float64
    from influence_assets.layouts.sequences import shard_sequences
    from influence_assets.maths.lbfgs import Search

    options, shards = _options(work.study), work.open_all("token_sequences")
    asked = tokenized_queries(work)  # a question that cannot be read must not be found after hours
    runner = runner_in_float64(work.workspace, work.open("language_model"))
    training = TrainingSequences([partial(shard_sequences, shard) for shard in shards])
    (fitted,) = training.batches(options.fit_sequences, 1, most=options.fit_sequences, seed=options.seed)
    bregman = ProximalBregman(runner, curvature_on(runner, work.open("eigenbases"), work.open("curvature")), fitted)
    generation = work.open("curvature").manifest.summary
    wanted = sorted({*options.sequences, *_strongest(work, options.strongest)})
    chosen = _in_corpus(training, wanted)
    responses: list[Response] = []
    for added in chosen.values():
        search = Search(options.tolerance, options.iterations)
        ε = 1 / int(generation["training_sequences"])
        responses.append(bregman.response(added, [queries for _, queries in asked], ε, search))
        work.progress(len(responses), len(chosen))
    missing = len(wanted) - len(chosen)
    if missing:
        work.draft.summarise(notes=[f"{missing} of the sequences that method_options.{NAME} names are not there."])
    ids = pl.concat(ids for ids, _ in asked).to_list()
    changes = [response.changes for response in responses]
    write_scores(
        work,
        ids,
        pl.DataFrame({"sequence_id": list(chosen)}, schema={"sequence_id": pl.Int64}),
        np.stack(changes, 1) if changes else np.zeros((len(ids), 0)),
        sequence_passes=sum(each.passes * (len(fitted) + 1) + 2 * FORWARD * len(ids) for each in responses),
        generation_id=int(generation["generation_id"]),
    )
    _record_minima(work, list(chosen), responses)


def _record_minima(work: Work, ids: "list[int]", responses: "list[Response]") -> None:
    """Write how near each response is to the minimum that defines it."""
    found = {
        "sequence_id": pl.Series(ids, dtype=pl.Int64),
        "relative_gradient": pl.Series([each.relative_gradient for each in responses], dtype=pl.Float64),
        "iterations": pl.Series([each.iterations for each in responses], dtype=pl.Int32),
        "evaluations": pl.Series([each.passes for each in responses], dtype=pl.Int32),
    }
    work.draft.table("minima", pl.DataFrame(found))
    work.draft.summarise(
        tolerance=_options(work.study).tolerance,
        largest_relative_gradient=max((each.relative_gradient for each in responses), default=0.0),
    )


def _strongest(work: Work, count: int) -> list[int]:
    """Return the sequences with each query's highest scores, and its lowest."""
    if not count:
        return []
    frames = []
    for scores in work.open_all("influence_scores"):
        rows = scores.table("influence_scores").select("query_id", "influence_nats", "sequence_id").collect()
        frames.append(_ends(rows, count))
    return _ends(pl.concat(frames), count)["sequence_id"].unique().to_list() if frames else []


def _ends(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return the rows with each query's highest scores and its lowest; of equal ones, those of the lowest ids."""
    return pl.concat(
        rows.sort("influence_nats", "sequence_id", descending=[is_highest, False])
        .group_by("query_id", maintain_order=True)
        .head(count)
        for is_highest in (True, False)
    ).unique(maintain_order=True)


def _in_corpus(training: TrainingSequences, ids: "Sequence[int]") -> "dict[int, Sequences]":
    """Return those of the sequences that are in the corpus, in the order of their ids."""
    import numpy as np

    found: dict[int, Sequences] = {}
    for sequences in training.all():
        for row in np.flatnonzero(np.isin(sequences.keys, np.array(ids, np.int64))).tolist():
            found[int(sequences.keys[row])] = sequences.take(np.array([row]))
    return dict(sorted(found.items()))


def minima_are_reached(artifact: Artifact, _open_input: Opener) -> Finding:
    """Check that every response was found as precisely as the study asks."""
    tolerance = float(artifact.manifest.summary["tolerance"])
    minima = artifact.table("minima").collect()
    short = minima.filter(pl.col("relative_gradient") > tolerance)
    figures = {"sequences": minima.height, "not_reached": short.height, "tolerance": tolerance}
    return Finding(short.is_empty(), figures)


def _chosen_count(sizes: Any) -> int:
    options, queries = _options(sizes.study), sum(map(sizes.queries, sizes.query_tokens))
    return int(min(sizes.all_sequences(), len(options.sequences) + 2 * options.strongest * queries))


def _cost(sizes: Any, _partition: Partition) -> Cost:
    """Count half of the steps that are allowed, and one evaluation for each; how many it takes is not known before."""
    options, chosen = _options(sizes.study), _chosen_count(sizes)
    fitted = min(options.fit_sequences, sizes.all_sequences())
    operations = chosen * (options.iterations / 2) * (fitted + 1) * sizes.shape.training_step()
    queries = sum(map(sizes.queries, sizes.query_tokens))
    return Cost(operations, chosen * queries * BYTES_PER_SCORE)


def _memory(sizes: Any) -> int:
    """The model, its gradient and the search's vectors in float64, and log-probabilities of all words that it said."""
    from influence_assets.maths.lbfgs import Search

    options, shape = _options(sizes.study), sizes.shape
    words = shape.head // max(1, 2 * (shape.tokens - 1) * shape.width)
    said = min(options.fit_sequences, sizes.all_sequences()) * (shape.tokens - 1) * words
    vectors = (2 * Search().history + 6) * shape.gradient_numbers
    precise = 8 // shape.dtype.itemsize * sizes.weight_bytes - sizes.weight_bytes
    held = sum(map(sizes.curvature_bytes, shape.layers))
    return int(sizes.pass_memory(held + precise + 8 * (said + vectors)))


def _shown(artifact: Artifact) -> Mapping[str, Shown]:
    figures = artifact.manifest.summary
    return {
        "in_short": f"Responses of {figures['queries']:,} questions to {figures['sequences']:,} sequences; the largest "
        f"gradient that is left is {figures['largest_relative_gradient']:.2g} of the first.",
        "minima": Table(artifact.table("minima").sort("relative_gradient", descending=True).head(10).collect()),
    }


ASSET = AssetDefinition(
    name="pbrf_scores",
    group="attribution",
    description=(
        "How the log-probability of every query changes if one more copy of a chosen sequence is added, by the "
        "proximal Bregman response that influence functions approximate: the model moves to lower the sequence's loss "
        "while it stays near to itself on the training sequences. Some sequences only, by `method_options.pbrf`."
    ),
    kinds=frozenset({"torch", "parquet"}),
    inputs=("token_sequences", "language_model", "eigenbases", "curvature", "query_gradients", "influence_scores"),
    uses=_uses,
    reads=("questions",),
    code_version="1",
    settings=_settings,
    source_content=_source_content,
    compute=_compute,
    method=METHOD,
    on_request=True,
    is_requested=listed(NAME),
    only_by_settings=True,
    holds_text=True,
    is_published=True,
    runs_model=True,
    cost=CostModel(partition=_cost, memory=_memory),
    checks=EachOf(
        Check(
            "minima_are_reached",
            "Every response is found as precisely as method_options.pbrf.tolerance asks.",
            minima_are_reached,
            blocking=False,
        )
    ),
    shown=_shown,
    hidden=frozenset({"tolerance"}),
    source_change=lambda _workspace, _partition, _last: "the queries changed",
)
